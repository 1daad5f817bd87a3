"""The bytes of a SentencePiece BPE model, from its pieces.

SentencePiece's generated protobuf module is tied to one protobuf runtime, so the few fields that matter are
encoded here. Field numbers: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

VARINT, LENGTH_DELIMITED, FIXED32 = 0, 2, 5
BPE = 2


class PieceType(IntEnum):
    """What a piece is; GGUF uses the same numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary. Pieces with higher scores are merged first."""

    text: str
    score: float
    type: PieceType


def serialise_bpe(
    pieces: list[Piece],
    unk_id: int,
    bos_id: int,
    eos_id: int,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
) -> bytes:
    """Return a ModelProto: BPE over `pieces`, identity normalisation, spaces escaped. Id -1 means none."""
    trainer_spec = (
        _integer(3, BPE)
        + _integer(4, len(pieces))
        + _integer(35, any(piece.type == PieceType.BYTE for piece in pieces))
        + b"".join(_integer(field, id) for field, id in ((40, unk_id), (41, bos_id), (42, eos_id), (43, -1)))
    )
    normalizer_spec = (
        _bytes(1, b"identity")
        + _integer(3, add_dummy_prefix)
        + _integer(4, remove_extra_whitespaces)
        + _integer(5, True)
    )
    encoded = (_bytes(1, _piece(piece)) for piece in pieces)
    return b"".join(encoded) + _bytes(2, trainer_spec) + _bytes(3, normalizer_spec)


def _piece(piece: Piece) -> bytes:
    score = _varint(2 << 3 | FIXED32) + struct.pack("<f", piece.score)
    return _bytes(1, piece.text.encode()) + score + _integer(3, piece.type)


def _integer(field: int, value: int) -> bytes:
    # A negative int32 travels as its 64-bit two's complement.
    return _varint(field << 3 | VARINT) + _varint(value & (1 << 64) - 1)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | LENGTH_DELIMITED) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
