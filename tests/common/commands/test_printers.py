"""What a terminal shows of a delta: no control characters but ours, and green where a draft had foretold the token."""

import pytest

from common.commands.printers import DRAFTED, PLAIN, coloured
from tandem.v1.inference_service_pb2 import GenerateDelta


@pytest.mark.parametrize(
    ("text", "lengths", "is_draft", "shown"),
    [
        ("one two", [3, 4], [False, True], f"one{DRAFTED} two{PLAIN}"),
        ("one two", [3, 0], [True, True], f"{DRAFTED}one{PLAIN} two"),  # the rest had been held back
        ("\x1b[31mé", [5, 1], [True, False], f"{DRAFTED}[31m{PLAIN}é"),
        ("", [0], [True], ""),
    ],
)
def test_colours(text: str, lengths: list[int], is_draft: list[bool], shown: str) -> None:
    assert coloured(GenerateDelta(text=text, text_lengths=lengths, is_draft=is_draft)) == shown
