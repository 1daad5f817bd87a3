"""How an answer is shown: as text while it comes, or as one JSON object a line."""

import json
import os
import sys
from typing import Any, Protocol, TextIO

from google.protobuf.message import Message

from tandem.v1.inference_service_pb2 import FinishReason, GenerateDelta, GenerateFinished, GenerateStarted


class Printer(Protocol):
    """Shows the events of one answer."""

    def started(self, event: GenerateStarted) -> None: ...

    def delta(self, event: GenerateDelta) -> None: ...

    def finished(self, event: GenerateFinished) -> None: ...

    def broken_off(self) -> None:
        """The stream ended without a finished event."""


DRAFTED, PLAIN = "\x1b[32m", "\x1b[0m"


def has_colours(stream: TextIO) -> bool:
    """Whether what goes there may be coloured: to a terminal, and unless NO_COLOR is set."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


class TextPrinter:
    """Text to stdout as it comes; to a terminal without control characters, which could forge its screen.

    On a terminal, and unless NO_COLOR is set, what a draft had foretold is green.
    """

    def __init__(self) -> None:
        self._keep_all = not sys.stdout.isatty()
        self._colours = has_colours(sys.stdout)
        self._in_line = False

    def started(self, event: GenerateStarted) -> None: ...

    def delta(self, event: GenerateDelta) -> None:
        text = event.text if self._keep_all else printable(event.text)
        if text:
            sys.stdout.write(coloured(event) if self._colours and any(event.is_draft) else text)
            sys.stdout.flush()
            self._in_line = not text.endswith("\n")

    def finished(self, event: GenerateFinished) -> None:
        self.broken_off()

    def broken_off(self) -> None:
        if self._in_line:
            sys.stdout.write("\n")
            sys.stdout.flush()


class JsonPrinter:
    """One JSON object a line, its keys named as in the proto file."""

    def started(self, event: GenerateStarted) -> None:
        _print_line({"event": "started", **plain(event)})

    def delta(self, event: GenerateDelta) -> None:
        fields = plain(event)
        for name in ("logprobs", "is_draft", "text_lengths"):
            if not fields[name]:
                del fields[name]
        _print_line({"event": "delta", **fields})

    def finished(self, event: GenerateFinished) -> None:
        fields: dict[str, Any] = {"event": "finished", "finish_reason": finish_reason(event)}
        if event.stop_string:
            fields["stop_string"] = event.stop_string
        if event.HasField("stop_token_id"):
            fields["stop_token_id"] = event.stop_token_id
        fields |= {"usage": plain(event.usage), "timings": plain(event.timings)}
        if event.HasField("speculation"):
            fields["speculation"] = plain(event.speculation)
        _print_line(fields)

    def broken_off(self) -> None: ...


def finish_reason(event: GenerateFinished) -> str:
    """Return the reason as a lower-case word, such as "length"."""
    return FinishReason.Name(event.reason).removeprefix("FINISH_REASON_").lower()


def coloured(event: GenerateDelta) -> str:
    """Return the delta's text, without control characters of its own, the tokens that a draft had foretold in green."""
    parts, start = [], 0
    for is_draft, length in zip(event.is_draft, event.text_lengths, strict=True):
        text = printable(event.text[start : start + length])
        parts.append(f"{DRAFTED}{text}{PLAIN}" if is_draft and text else text)
        start += length
    return "".join(parts) + printable(event.text[start:])


def printable(text: str) -> str:
    """Return `text` without control characters other than newline and tab."""
    return "".join(c for c in text if c in "\n\t" or (c >= " " and not "\x7f" <= c <= "\x9f"))


def plain(message: Message) -> dict[str, Any]:
    """Return `message` as a dict of all its fields; unlike in protobuf JSON, 64-bit numbers stay numbers."""
    return {field.name: _plain_value(getattr(message, field.name)) for field in message.DESCRIPTOR.fields}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Message):
        return plain(value)
    if isinstance(value, str | int | float):
        return value
    return [_plain_value(item) for item in value]


def _print_line(fields: dict[str, Any]) -> None:
    print(json.dumps(fields, ensure_ascii=False), flush=True)
