"""`tandem trace`: one prompt, and a drawing of where its answer's time went"""

import asyncio
import shutil
import sys
import time
from typing import Any

import click

from common.commands.answer import Answer, stream_answer
from common.commands.client import connected
from common.commands.gateway_address import GatewayAddress, gateway_address_options
from common.commands.generate import request_for
from common.commands.printers import has_colours
from common.commands.request_options import prompt_or_stdin, request_options
from common.commands.trace_picture import Style, draw
from tandem.v1.inference_service_pb2 import GenerateDelta, GenerateFinished, GenerateStarted

MIN_COLUMNS, MAX_COLUMNS = 72, 120


@click.command()
@click.argument("prompt", required=False)
@gateway_address_options
@click.option("--chat/--no-chat", default=None, help="as a user's turn or as plain text; default: as the model can")
@request_options
def trace(prompt: str | None, gateway: GatewayAddress, chat: bool | None, **flags: Any) -> None:
    """Ask a running gateway PROMPT (or standard input) and draw where the answer's time went.

    All times are the answer's own: no collector is needed. The answer's text is not shown.
    """
    if flags["system"] and chat is False:
        raise click.UsageError("--system needs a chat prompt")
    prompt = prompt_or_stdin(prompt)
    asyncio.run(_trace(prompt, gateway, chat, flags))


async def _trace(prompt: str, gateway: GatewayAddress, chat: bool | None, flags: dict[str, Any]) -> None:
    async with connected(gateway) as client:
        request = request_for(client, prompt, chat, flags)
        answer = Answer()
        began_ns = time.perf_counter_ns()
        await stream_answer(client, request, Nothing(), answer)
        client_ns = time.perf_counter_ns() - began_ns
    assert answer.finished is not None
    for line in draw(answer.finished, client_ns, _style()):
        click.echo(line)


class Nothing:
    """A printer that shows nothing."""

    def started(self, event: GenerateStarted) -> None: ...

    def delta(self, event: GenerateDelta) -> None: ...

    def finished(self, event: GenerateFinished) -> None: ...

    def broken_off(self) -> None: ...


def _style() -> Style:
    columns = shutil.get_terminal_size().columns
    encoding = (sys.stdout.encoding or "").lower()
    return Style(
        columns=min(MAX_COLUMNS, max(MIN_COLUMNS, columns)),
        has_colours=has_colours(sys.stdout),
        has_blocks=encoding.startswith("utf"),
    )
