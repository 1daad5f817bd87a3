"""A tiktoken.json has exactly one meaning, or is refused."""

import base64
import json
from typing import Any

import pytest

from common.errors import CheckpointError
from common.tiktoken_file import TiktokenFile, build_encoding, read_tiktoken_file

BYTES = [base64.b64encode(bytes([byte])).decode() for byte in range(256)]
FIELDS: dict[str, Any] = {
    "pattern": r"\w+|\W",
    "first_id": 3,
    "tokens": [*BYTES, base64.b64encode(b"ab").decode()],
    "special_tokens": {"<s>": 0, "</s>": 300},
}


def test_what_was_written_is_read() -> None:
    file = TiktokenFile.model_validate(FIELDS)
    again = read_tiktoken_file(file.serialise())
    assert again == file and again.serialise() == file.serialise()
    assert (again.vocabulary_size, again.pieces()[97], again.pieces()[256]) == (301, b"a", b"ab")
    assert build_encoding(again).encode_ordinary("aab") == [97, 256]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tokens": BYTES[1:]}, "each of the 256 bytes"),
        ({"tokens": [*BYTES, ""]}, "no token be empty"),
        ({"tokens": [*BYTES, BYTES[0]]}, "twice"),
        ({"tokens": [*BYTES, "%"]}, "base64"),
        ({"special_tokens": {"<s>": 1, "<t>": 1}}, "one id"),
        ({"special_tokens": {"": 1}}, "empty"),
        ({"special_tokens": {"<s>": 3}}, "3 is both a special token and a plain one"),
        ({"special_tokens": {"<s>": -1}}, "greater than or equal to 0"),
        ({"special_tokens": {"<s>": 1 << 40}}, "beyond"),
        ({"first_id": 1 << 40}, "first_id"),
        ({"pattern": ""}, "pattern"),
        ({"surplus": 1}, "surplus"),
    ],
    ids=str,
)
def test_other_files_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        read_tiktoken_file(json.dumps(FIELDS | changes).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"not a tiktoken\.json"):
        read_tiktoken_file(data)
