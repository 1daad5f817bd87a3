"""A SentencePiece `.model` file, for plain text and for rendered chats (Kudo and Richardson 2018)."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from sentencepiece import SentencePieceProcessor

from common.errors import CheckpointError
from gateway.tokenizers.piece_table import EACH_BYTE, PieceDecoder, PieceTable
from gateway.tokenizers.sentencepiece_model import CONTROL, USER_DEFINED, flag, read_model
from gateway.tokenizers.special_strings import any_of, is_control

SPACE = "\u2581"


class SentencePieceTokenizer:
    """A tokenizer read by the `sentencepiece` library (Tokenizer).

    Control tokens are the model's control pieces, which the library never finds in text, and those
    user-defined pieces that the chat template writes. Text after a control token continues the text: the
    dummy space that marks a beginning is added at the very beginning and after the begin-of-text token only.
    """

    def __init__(self, data: bytes, template: str) -> None:
        """Read the file's bytes; `template` is the chat template's source, or "".

        Raises CheckpointError for a file that is no such model, and for one that rewrites decoded text.
        """
        model = read_model(data)
        if model.denormalizer_spec.precompiled_charsmap:
            raise CheckpointError("SentencePiece models with a denormalizer are not supported")
        self._table = _piece_table(_load(data), model)

        for piece in model.pieces:
            if piece.type == USER_DEFINED and is_control(piece.piece, template):
                piece.type = CONTROL
        self._plain = _load(model.SerializeToString())
        self._bos_id: int = self._plain.bos_id()
        self._control = {p.piece: i for i, p in enumerate(model.pieces) if p.type == CONTROL}
        self._control_pattern = re.compile(f"({any_of(self._control)})")

        model.normalizer_spec.add_dummy_prefix = False
        self._continuing = _load(model.SerializeToString())

    @property
    def vocabulary_size(self) -> int:
        """The number of pieces."""
        return len(self._table.pieces)

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Control pieces."""
        return self._control

    def encode(self, text: str) -> list[int]:
        """Return the ids of plain text, as the library's `encode`."""
        ids: list[int] = self._plain.encode(text)
        return ids

    def encode_rendered(self, text: str, guard: str) -> list[int]:
        """Return the ids of a rendered chat template."""
        ids: list[int] = []
        at_start = True
        for index, part in enumerate(self._control_pattern.split(text)):
            if index % 2:
                ids.append(self._control[part])
                at_start = ids[-1] == self._bos_id
            elif part:
                ids += (self._plain if at_start else self._continuing).encode(part.replace(guard, ""))
        return ids

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the text, as the library's `decode`: control pieces add nothing, unknown ones " \u2047 "."""
        return self._table.decode(token_ids)

    def decoder(self) -> PieceDecoder:
        """Return a decoder for a new stream."""
        return PieceDecoder(self._table)


def _load(data: bytes) -> Any:
    try:
        return SentencePieceProcessor(model_proto=data)
    except (RuntimeError, ValueError, TypeError) as error:
        raise CheckpointError(f"the tokenizer's file is not a SentencePiece model: {error}") from error


def _piece_table(library: Any, model: Any) -> PieceTable:
    """Return what each piece adds, as SentencePieceProcessor::Decode has it."""
    strips_all = flag(model.normalizer_spec, "remove_extra_whitespaces")
    pieces: list[bytes | None] = []
    leading: dict[int, bytes] = {}
    for token_id, entry in enumerate(model.pieces):
        if library.is_byte(token_id):
            pieces.append(bytes([int(entry.piece[3:5], 16)]))
        elif library.is_control(token_id):
            pieces.append(b"")
        elif library.is_unknown(token_id):
            pieces.append(library.decode([token_id]).encode())
        else:
            pieces.append(entry.piece.replace(SPACE, " ").encode())
            if entry.piece.startswith(SPACE):
                leading[token_id] = entry.piece[1:].replace(SPACE, " ").encode()
    if not (strips_all or flag(model.normalizer_spec, "add_dummy_prefix")):
        leading = {}
    return PieceTable(pieces, EACH_BYTE, leading, leading_until_text=strips_all)
