"""From ids to text: what each id adds, in bytes, and one UTF-8 decoder over them."""

import codecs
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

# One U+FFFD per maximal ill-formed subpart, the Unicode standard's recommendation (3.9, U+FFFD substitution).
EACH_SUBPART = "replace"
# One U+FFFD for each byte that is no part of a character: SentencePiece's rule.
EACH_BYTE = "tandem-replace-each-byte"


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error(EACH_BYTE, _replace_each_byte)


@dataclass(frozen=True)
class PieceTable:
    """What each id adds to a text.

    `pieces[id]` is UTF-8, or a part of it; None adds nothing, and b"" adds nothing but ends an unfinished
    character. `leading[id]` stands in for it where the text begins, for ids that differ there (a leading
    space that the tokenizer itself had put in). The beginning lasts until the first id that has a piece, or,
    with `leading_until_text`, until the first that adds text. `errors` is EACH_SUBPART or EACH_BYTE.
    """

    pieces: Sequence[bytes | None]
    errors: str
    leading: Mapping[int, bytes] = field(default_factory=dict)
    leading_until_text: bool = False

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the text of the ids; ids outside the table add nothing."""
        decoder = PieceDecoder(self)
        return "".join(map(decoder.push, token_ids)) + decoder.flush()


class PieceDecoder:
    """Decodes one stream through a table (IncrementalDecoder)."""

    def __init__(self, table: PieceTable) -> None:
        self._table = table
        self._utf8 = codecs.getincrementaldecoder("utf-8")(table.errors)
        self._at_beginning = True

    def push(self, token_id: int) -> str:
        """Return the text that becomes certain with this id."""
        pieces = self._table.pieces
        piece = pieces[token_id] if 0 <= token_id < len(pieces) else None
        if piece is None:
            return ""
        if not piece:
            return self._utf8.decode(b"", final=True)
        if self._at_beginning:
            shown = self._table.leading.get(token_id, piece)
            self._at_beginning = self._table.leading_until_text and not shown
            piece = shown
        return self._utf8.decode(piece)

    def flush(self) -> str:
        """Return U+FFFD for what is held back."""
        return self._utf8.decode(b"", final=True)
