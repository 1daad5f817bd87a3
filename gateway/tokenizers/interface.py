"""What the gateway asks of a tokenizer, whichever library reads its file."""

from collections.abc import Iterable, Mapping
from typing import Protocol


class IncrementalDecoder(Protocol):
    """Decodes one stream, id by id.

    For any ids, `"".join(map(push, ids)) + flush()` equals `Tokenizer.decode(ids)`.
    """

    def push(self, token_id: int) -> str:
        """Return the text that becomes certain with this id. Bytes of no whole character are held back."""
        ...

    def flush(self) -> str:
        """Return what is still held back, as U+FFFD. The stream ends here."""
        ...


class Tokenizer(Protocol):
    """Reads and writes the text of one checkpoint. Methods may be called from several threads at once."""

    @property
    def vocabulary_size(self) -> int:
        """The highest id the tokenizer knows, plus 1. The model's embedding may be padded beyond it."""
        ...

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The strings that mean control tokens where a chat template writes them, and never in plain text."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of plain text: special strings stay text, and no begin-of-text id is added.

        Raises InvalidRequest where the vocabulary itself would build a control token out of text.
        """
        ...

    def encode_rendered(self, text: str, guard: str) -> list[int]:
        """Return the ids of a rendered chat template.

        Intact special strings become their ids. `guard` is a character that stands in the middle of special
        strings which are to stay text; it is itself no part of the text. Raises as `encode`.
        """
        ...

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the text of the ids. Special tokens and ids beyond the vocabulary add nothing."""
        ...

    def decoder(self) -> IncrementalDecoder:
        """Return a decoder for a new stream."""
        ...
