"""How a log line is written: as text for people, or as one JSON object for programs. Never what an exception says"""

import json
import logging
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

TEXT, JSON = "text", "json"
# What a line may carry through logging's `extra`, beside its message.
EXTRA_FIELDS = ("trace_id", "span_id", "request_id")

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class TextLines(logging.Formatter):
    """Time, level, service, message, and the request's ids where there are any."""

    def __init__(self, service: str) -> None:
        super().__init__(f"%(asctime)s.%(msecs)03d %(levelname)s {service} %(message)s", "%Y-%m-%dT%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line without what follows an exception."""
        ids = "".join(f" {name}={value}" for name, value in _extra(record).items())
        return super().formatMessage(record) + ids

    def formatException(self, ei: ExcInfo) -> str:
        """Return what was raised and where."""
        return without_words(ei[1])


class JsonLines(logging.Formatter):
    """Keys: time (UTC), level, service, logger, message; trace_id, span_id, request_id, exception where there are."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        fields = {**_about(record.created, record.levelname, self._service), "logger": record.name}
        fields |= {"message": record.getMessage(), **_extra(record)}
        if record.exc_info:
            fields["exception"] = without_words(record.exc_info[1])
        return _line(fields)


def lines_of(service: str, log_format: str) -> logging.Formatter:
    """Return what writes a service's lines."""
    return JsonLines(service) if log_format == JSON else TextLines(service)


def logs_json() -> bool:
    """Whether this process was set up to log JSON."""
    return any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers)


def as_json(service: str, line: bytes) -> bytes:
    """Return a line of another process as JSON: as it is where it looks like an object of our own, else wrapped."""
    if line.startswith(b"{"):
        return line
    about = _about(datetime.now(UTC).timestamp(), "INFO", service)
    return _line({**about, "message": line.decode(errors="replace")}).encode()


def without_words(error: BaseException | None) -> str:
    """Return what an exception and its causes are and where they were raised, but not what they say: that may quote
    a prompt."""
    told = []
    while error is not None:
        told.append("".join([f"{type(error).__qualname__}\n", *traceback.format_tb(error.__traceback__)]).rstrip())
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\ncaused by ".join(told)


def _about(time_s: float, level: str, service: str) -> dict[str, Any]:
    time = datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"time": time, "level": level.lower(), "service": service}


def _extra(record: logging.LogRecord) -> dict[str, str]:
    return {name: value for name in EXTRA_FIELDS if (value := getattr(record, name, ""))}


def _line(fields: dict[str, Any]) -> str:
    return json.dumps(fields, ensure_ascii=False)
