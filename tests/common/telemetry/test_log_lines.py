"""Log lines as text and as JSON: one event a line, the request's ids, and never an exception's words."""

import json
import logging
import sys
from datetime import datetime

import pytest

from common.telemetry.log_lines import JSON, TEXT, as_json, lines_of, without_words

SECRET = "what the prompt says"


def record(message: str, *arguments: object, error: Exception | None = None, **extra: str) -> logging.LogRecord:
    exc_info = (type(error), error, error.__traceback__) if error is not None else None
    made = logging.LogRecord("a.logger", logging.WARNING, "file.py", 1, message, arguments, exc_info)
    made.__dict__.update(extra)
    return made


def raised() -> Exception:
    try:
        try:
            int(SECRET)
        except ValueError as error:
            raise RuntimeError(SECRET) from error
    except RuntimeError as error:
        caught = error
    return caught


def test_json_is_one_object_a_line() -> None:
    line = lines_of("gateway", JSON).format(record("two\nlines of %s", "text", trace_id="ab", request_id=""))
    assert "\n" not in line
    fields = json.loads(line)
    assert datetime.fromisoformat(fields.pop("time")).tzinfo is not None
    assert fields == {
        "level": "warning",
        "service": "gateway",
        "logger": "a.logger",
        "message": "two\nlines of text",
        "trace_id": "ab",
    }


def test_text_shows_the_ids_at_the_end() -> None:
    line = lines_of("gateway", TEXT).format(record("a message", request_id="r1", span_id="cd"))
    assert line.split(" ", 1)[1] == "WARNING gateway a message span_id=cd request_id=r1"


@pytest.mark.parametrize("log_format", [TEXT, JSON])
def test_an_exception_tells_where_but_not_what(log_format: str) -> None:
    line = lines_of("gateway", log_format).format(record("it failed", error=raised()))
    assert SECRET not in line
    assert "RuntimeError" in line and "caused by ValueError" in line and "in raised" in line


def test_what_other_programs_print_is_wrapped() -> None:
    assert as_json("rank 0", b'{"a": 1}') == b'{"a": 1}'
    fields = json.loads(as_json("rank 0", b"Segmentation \xff fault"))
    assert (fields["service"], fields["message"]) == ("rank 0", "Segmentation \N{REPLACEMENT CHARACTER} fault")


def test_nothing_is_said_of_no_exception() -> None:
    assert without_words(None) == "" and sys.exception() is None
