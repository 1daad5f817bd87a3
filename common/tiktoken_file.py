"""Our form of a byte-level BPE vocabulary that is read by `tiktoken`: `tiktoken.json`.

A ranks file of tiktoken says neither how a text is split nor which tokens are special, and Mistral's tekken.json holds
more than it uses. This file states just what decides the ids, so that nothing but it is needed to read a text.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, model_validator
from tiktoken import Encoding

from common.errors import CheckpointError

MAX_TOKENS = 1 << 20


class TiktokenFile(BaseModel):
    """A vocabulary.

    A text is split by `pattern` (a regular expression of Rust's fancy-regex); in each piece the two neighbours whose
    bytes together have the lowest rank are merged, again and again. The token of rank r, `tokens[r]` (base64), has the
    id `first_id` + r. `special_tokens` are ids by content; no text yields them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pattern: str = Field(min_length=1)
    first_id: int = Field(ge=0, le=MAX_TOKENS)
    tokens: tuple[str, ...] = Field(max_length=MAX_TOKENS)
    special_tokens: Mapping[str, NonNegativeInt]

    @model_validator(mode="after")
    def _has_one_meaning(self) -> Self:
        pieces = {base64.b64decode(token, validate=True) for token in self.tokens}
        if len(pieces) < len(self.tokens):
            raise ValueError("a token is there twice")
        if b"" in pieces or not {bytes([byte]) for byte in range(256)} <= pieces:
            raise ValueError("each of the 256 bytes must be a token, and no token be empty")
        ids = set(self.special_tokens.values())
        if len(ids) < len(self.special_tokens) or "" in self.special_tokens:
            raise ValueError("two special tokens have one id, or one is empty")
        if ids and max(ids) >= 2 * MAX_TOKENS:
            raise ValueError(f"the special token {max(ids)} is beyond {2 * MAX_TOKENS}")
        if clash := sorted(id for id in ids if self.first_id <= id < self.first_id + len(self.tokens)):
            raise ValueError(f"{clash[0]} is both a special token and a plain one")
        return self

    @property
    def vocabulary_size(self) -> int:
        """The highest id, plus 1."""
        return max(self.first_id + len(self.tokens), *(id + 1 for id in self.special_tokens.values()), 0)

    def pieces(self) -> list[bytes]:
        """Return each plain token's bytes, by rank."""
        return [base64.b64decode(token) for token in self.tokens]

    def serialise(self) -> bytes:
        """Return the file: one line a token, so that it can be looked at."""
        return json.dumps(self.model_dump(), ensure_ascii=False, indent=0).encode() + b"\n"


def read_tiktoken_file(data: bytes) -> TiktokenFile:
    """Return the file's content. Raises CheckpointError when it has not exactly one meaning."""
    try:
        return TiktokenFile.model_validate_json(data)
    except ValidationError as error:
        raise CheckpointError(f"the tokenizer's file is not a tiktoken.json: {reasons(error)}") from error


def reasons(error: ValidationError) -> str:
    """Return what is wrong, without the file's own values: there may be many."""
    found = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}".removeprefix(": ") for e in error.errors()[:3]]
    return "; ".join(found)


def build_encoding(file: TiktokenFile) -> Any:
    """Return the library's object for plain text. It gives ranks, not ids. Raises CheckpointError for a bad pattern."""
    ranks = {piece: rank for rank, piece in enumerate(file.pieces())}
    try:
        return Encoding(name="checkpoint", pat_str=file.pattern, mergeable_ranks=ranks, special_tokens={})
    except ValueError as error:
        raise CheckpointError(f"the tokenizer's split pattern is not valid: {error}") from error
