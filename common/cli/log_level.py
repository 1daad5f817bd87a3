"""The `--log-level` flag, the same for every command that logs."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def log_level_option(default: str = "info") -> Callable[[F], F]:
    """Return a decorator that gives a click command `--log-level`."""
    return click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default=default,
        envvar="TANDEM_LOG_LEVEL",
        show_envvar=True,
        show_default=True,
        help="least important log lines to show on stderr",
    )
