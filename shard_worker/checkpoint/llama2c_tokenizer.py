"""llama2.c's tokenizer.bin as a SentencePiece model.

Format (tokenizer.py of https://github.com/karpathy/llama2.c): the longest piece's bytes (u32), then for each id its
score (f32), its piece's bytes (i32) and its piece in UTF-8, with spaces for SentencePiece's U+2581. How many there are
is what the model says; id 0 is unknown, 1 begins a text and 2 ends it (run.c).
"""

import re
import struct
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from common.errors import CheckpointError
from shard_worker.checkpoint.huggingface_tokenizer import MAX_TOKENIZER_BYTES
from shard_worker.checkpoint.sentencepiece_model import Piece, PieceType, serialise_bpe
from shard_worker.checkpoint.source import TokenizerSource

UNK_ID, BOS_ID, EOS_ID = 0, 1, 2
CONTROL_PIECES = {UNK_ID: "<unk>", BOS_ID: "<s>", EOS_ID: "</s>"}
BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
WORD_BOUNDARY = "\u2581"
LENGTH = struct.Struct("<I")
ENTRY = struct.Struct("<fi")


def read_tokenizer_bin(path: Path, vocabulary_size: int) -> TokenizerSource:
    """Return the tokenizer in `path`. Raises CheckpointError when it does not hold that many pieces."""
    try:
        if (file_bytes := path.stat().st_size) > MAX_TOKENIZER_BYTES:
            raise CheckpointError(f"{path} is larger than {MAX_TOKENIZER_BYTES} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    if vocabulary_size > file_bytes // ENTRY.size or vocabulary_size <= EOS_ID:
        raise CheckpointError(f"{path}: {file_bytes} bytes do not hold a vocabulary of {vocabulary_size} pieces")
    model = serialise_bpe(
        _pieces(path, data, vocabulary_size),
        unk_id=UNK_ID,
        bos_id=BOS_ID,
        eos_id=EOS_ID,
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
    )
    try:
        SentencePieceProcessor(model_proto=model)
    except (RuntimeError, OSError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return TokenizerSource("sentencepiece", model, BOS_ID)


def _pieces(path: Path, data: bytes, vocabulary_size: int) -> list[Piece]:
    pieces: list[Piece] = []
    offset = LENGTH.size
    for id in range(vocabulary_size):
        if offset + ENTRY.size > len(data):
            raise CheckpointError(f"{path}: it ends before piece {id} of {vocabulary_size}")
        score, num_bytes = ENTRY.unpack_from(data, offset)
        offset += ENTRY.size
        if not 0 < num_bytes <= len(data) - offset:
            raise CheckpointError(f"{path}: piece {id} has {num_bytes} bytes")
        try:
            text = data[offset : offset + num_bytes].decode()
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{path}: piece {id}: {error}") from error
        offset += num_bytes
        pieces.append(_piece(id, text, score))
    if offset != len(data):
        raise CheckpointError(f"{path}: {len(data) - offset} bytes follow piece {vocabulary_size - 1}, the last one")
    return pieces


def _piece(id: int, text: str, score: float) -> Piece:
    if id in CONTROL_PIECES:
        return Piece(CONTROL_PIECES[id], score, PieceType.UNKNOWN if id == UNK_ID else PieceType.CONTROL)
    kind = PieceType.BYTE if BYTE_PIECE.fullmatch(text) else PieceType.NORMAL
    return Piece(text.replace(" ", WORD_BOUNDARY), score, kind)
