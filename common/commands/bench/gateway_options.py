"""The flags that say which gateway to measure, the same for every bench."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from common.commands.connection_options import CONNECTION_OPTIONS

AS_UP = "as in `tandem up`"

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--address", metavar="HOST:PORT", help="gateway to measure; without it, one is started and stopped again"
    ),
    click.option("--tp", metavar="INTEGER", help=AS_UP),
    click.option("--dtype", help=AS_UP),
    click.option("--threads", metavar="INTEGER", help=AS_UP),
    click.option("--gateway", multiple=True, metavar="KEY=VALUE", help=AS_UP),
    click.option("--shard", multiple=True, metavar="KEY=VALUE", help=AS_UP),
)


def gateway_options(command: F) -> F:
    """Give a click command the flags of a gateway."""
    for option in reversed((*_OPTIONS, *CONNECTION_OPTIONS)):
        command = option(command)
    return command
