"""The streaming decoder on arbitrary bytes."""

import codecs

from hypothesis import given
from hypothesis import strategies as st

from gateway.tokenizers.piece_table import EACH_BYTE, EACH_SUBPART, PieceDecoder, PieceTable

BYTES = [bytes([byte]) for byte in range(256)]
# Bytes that begin, continue and break characters, more often than chance would have them.
TRICKY = st.sampled_from([0x20, 0x41, 0x80, 0x9F, 0xA0, 0xBF, 0xC3, 0xE0, 0xE2, 0xED, 0xF0, 0xF4, 0xFF])


def naive_each_byte(data: bytes) -> str:
    """Decode by trying every prefix: a character where there is one, else one mark for one byte."""
    text = ""
    while data:
        for length in range(1, 5):
            try:
                text += data[:length].decode()
                break
            except UnicodeDecodeError:
                continue
        else:
            text, length = text + "\ufffd", 1
        data = data[length:]
    return text


@given(st.lists(st.one_of(TRICKY, st.integers(0, 255))))
def test_each_byte_rule(ids: list[int]) -> None:
    assert PieceTable(BYTES, EACH_BYTE).decode(ids) == naive_each_byte(bytes(ids))


@given(st.lists(st.one_of(TRICKY, st.integers(0, 255))))
def test_each_subpart_rule(ids: list[int]) -> None:
    assert PieceTable(BYTES, EACH_SUBPART).decode(ids) == bytes(ids).decode(errors="replace")


@given(st.lists(st.integers(-3, 12)), st.booleans(), st.sampled_from([EACH_BYTE, EACH_SUBPART]))
def test_pushes_never_split_a_character_and_add_up(ids: list[int], until_text: bool, errors: str) -> None:
    pieces = [None, b"", b" a", b" ", b"\xf0\x9f", b"\x98\x80", b"\xc3", "é".encode(), b"\xff", b"b"]
    table = PieceTable(pieces, errors, {2: b"a", 3: b""}, until_text)
    decoder = PieceDecoder(table)
    texts = [decoder.push(token_id) for token_id in ids]
    assert "".join(texts) + decoder.flush() == table.decode(ids)
    assert "\x98" not in "".join(texts)


def test_leading_pieces_are_used_once_or_until_there_is_text() -> None:
    pieces = [b" a", b" ", None, b""]
    once = PieceTable(pieces, EACH_BYTE, {0: b"a", 1: b""})
    assert once.decode([2, 3, 0, 0]) == "a a"
    assert once.decode([1, 0]) == " a"
    until_text = PieceTable(pieces, EACH_BYTE, {0: b"a", 1: b""}, leading_until_text=True)
    assert until_text.decode([1, 1, 0, 1]) == "a "


def test_an_empty_piece_ends_a_character_and_a_missing_one_does_not() -> None:
    table = PieceTable([b"\xc3", b"\xa9", b"", None], EACH_BYTE)
    assert table.decode([0, 3, 1]) == "é"
    assert table.decode([0, 99, 1]) == "é"
    assert table.decode([0, 2, 1]) == "\ufffd\ufffd"


def test_the_rule_is_known_to_codecs() -> None:
    assert codecs.decode(b"a\xf0\x9f\x98", "utf-8", EACH_BYTE) == "a\ufffd\ufffd\ufffd"
