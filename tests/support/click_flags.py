"""What a command gets whose flags come from one of our decorators."""

from collections.abc import Callable, Sequence
from typing import Any

import click
from click.testing import CliRunner

Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def parsed_flags(decorator: Decorator, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the flags by name as the command under `decorator` gets them; they must be right."""
    seen: dict[str, Any] = {}

    @click.command()
    @decorator
    def command(**flags: Any) -> None:
        seen.update(flags)

    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return seen
