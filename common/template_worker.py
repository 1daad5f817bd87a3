"""The process that renders chat templates; run as a script, it needs nothing but jinja2.

A template comes with a model file and is not trusted: it runs in jinja2's sandbox, in a process of its own
with bounded memory, which the alarm clock ends when a render takes far too long even though its parent is
gone. It speaks JSON, one object per line. The first line in is {"template", "variables", "max_chars",
"alarm_s"}; every later one a list of messages. Every line out is {"text"} or {"error"}. It ends with its
input.
"""

import json
import resource
import signal
import sys
from datetime import datetime
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MAX_MEMORY_BYTES = 1 << 30
MAX_ERROR_CHARS = 200


class GenerationBlock(Extension):
    """`{% generation %}` marks what the assistant said, for training. Here its body is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 - declared so by jinja2

    def parse(self, parser: Parser) -> nodes.Node:
        """Return the body as a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class GuardedNamespace(Namespace):
    """jinja2's namespace without underscored names, which could reach into Python."""

    def __init__(self, /, *args: Any, **attributes: Any) -> None:
        names = dict(*args, **attributes)
        for name in names:
            _check_name(name)
        super().__init__(names)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise SecurityError(f"a namespace has no attribute {name!r}")


def environment() -> ImmutableSandboxedEnvironment:
    """Return the environment that transformers gives chat templates."""
    result = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, "jinja2.ext.loopcontrols"]
    )
    result.filters["tojson"] = to_json
    result.globals["raise_exception"] = raise_exception
    result.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    result.globals["namespace"] = GuardedNamespace
    return result


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON as transformers' filter does: unlike jinja2's own it does not escape for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message: str) -> None:
    """Let a template refuse a conversation."""
    raise TemplateError(message)


def render(template: Any, variables: dict[str, Any], max_chars: int) -> dict[str, str]:
    """Return {"text"} or {"error"}."""
    parts: list[str] = []
    length = 0
    try:
        for part in template.generate(variables):
            parts.append(part)
            length += len(part)
            if length > max_chars:
                return {"error": f"the rendered chat is longer than {max_chars} characters"}
        text = "".join(parts)
        text.encode()
    except TemplateError as error:
        return {"error": (error.message or type(error).__name__)[:MAX_ERROR_CHARS]}
    except Exception as error:  # MemoryError, RecursionError: whatever a template provokes
        return {"error": f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARS]}
    return {"text": text}


def answer(message: dict[str, str]) -> None:
    """Write one line."""
    line = json.dumps(message, ensure_ascii=False).encode("utf-8", errors="replace")
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def serve() -> None:
    """Answer until the input ends."""
    settings = json.loads(sys.stdin.buffer.readline() or b"{}")
    if not settings:
        return
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (0, 0))
    signal.setitimer(signal.ITIMER_REAL, settings["alarm_s"])
    try:
        template = environment().from_string(settings["template"])
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARS]})
        return
    answer({"text": ""})
    while True:
        signal.setitimer(signal.ITIMER_REAL, 0)
        line = sys.stdin.buffer.readline()
        if not line.endswith(b"\n"):
            return
        # The default action of SIGALRM ends the process, even inside one long operation.
        signal.setitimer(signal.ITIMER_REAL, settings["alarm_s"])
        variables = settings["variables"] | {"messages": json.loads(line)}
        answer(render(template, variables, settings["max_chars"]))


if __name__ == "__main__":
    serve()
