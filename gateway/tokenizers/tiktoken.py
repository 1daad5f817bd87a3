"""A byte-level BPE vocabulary read by `tiktoken`: Llama 3's and Mistral's Tekken."""

import re
from collections.abc import Iterable, Iterator, Mapping

from common.errors import InvalidRequest
from common.tiktoken_file import build_encoding, read_tiktoken_file
from gateway.tokenizers.piece_table import EACH_SUBPART, PieceDecoder, PieceTable
from gateway.tokenizers.special_strings import any_of

# Meta's Llama 3 tokenizer cuts longer runs (MAX_NO_WHITESPACES_CHARS of llama-models' llama3/tokenizer.py): on about a
# million spaces the library's regular expression runs out of its stack.
MAX_RUN_CHARS = 25_000
RUN = re.compile(r"\s+|\S+")


class TiktokenTokenizer:
    """A tokenizer read by the `tiktoken` library (Tokenizer).

    Ids equal the library's, which Meta's and Mistral's own code use. Special tokens are found by us: the library gets
    plain text only, from which it cannot make one.
    """

    def __init__(self, data: bytes) -> None:
        """Read the bytes of a tiktoken.json. Raises CheckpointError when it is none, or its pattern is not valid."""
        file = read_tiktoken_file(data)
        self._library = build_encoding(file)
        self._first_id = file.first_id
        self._special = dict(file.special_tokens)
        self._special_pattern = re.compile(f"({any_of(self._special)})")
        pieces: list[bytes | None] = [None] * file.vocabulary_size
        pieces[file.first_id : file.first_id + len(file.tokens)] = file.pieces()
        for token_id in self._special.values():
            pieces[token_id] = b""
        self._table = PieceTable(pieces, EACH_SUBPART)

    @property
    def vocabulary_size(self) -> int:
        """The highest id of a plain or special token, plus 1."""
        return len(self._table.pieces)

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """All special tokens, reserved ones included."""
        return self._special

    def encode(self, text: str) -> list[int]:
        """Return the ids of plain text, as the library's `encode_ordinary`.

        Runs of more than MAX_RUN_CHARS characters with or without white space are cut as in Meta's code. Raises
        InvalidRequest where the library gives up on a text.
        """
        return [self._first_id + rank for part in cut_runs(text) for rank in self._ranks(part)]

    def encode_rendered(self, text: str, guard: str) -> list[int]:
        """Return the ids of a rendered chat template. Raises as `encode`."""
        ids: list[int] = []
        for index, part in enumerate(self._special_pattern.split(text)):
            ids += [self._special[part]] if index % 2 else self.encode(part.replace(guard, ""))
        return ids

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the text, as Tekken's `decode`: special tokens add nothing, but end an unfinished character."""
        return self._table.decode(token_ids)

    def decoder(self) -> PieceDecoder:
        """Return a decoder for a new stream."""
        return PieceDecoder(self._table)

    def _ranks(self, text: str) -> list[int]:
        try:
            ranks: list[int] = self._library.encode_ordinary(text)
        except BaseException as error:
            # A panic of the Rust code is no Exception, so that it would end the process.
            if type(error).__name__ != "PanicException":
                raise
            raise InvalidRequest("prompt", "the tokenizer's split pattern gives up on this text") from None
        return ranks


def cut_runs(text: str, max_chars: int = MAX_RUN_CHARS) -> Iterator[str]:
    """Yield the text in parts, cut wherever a run with or without white space has reached `max_chars` characters."""
    start = 0
    if len(text) > max_chars:
        for run in RUN.finditer(text):
            for cut in range(run.start() + max_chars, run.end(), max_chars):
                yield text[start:cut]
                start = cut
    yield text[start:]
