"""`tandem chat`: a conversation in the terminal."""

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import Any

import click

from common.commands.answer import Answer, stream_answer
from common.commands.client import Client, connected
from common.commands.gateway_address import GatewayAddress, gateway_address_options
from common.commands.generate import print_summary
from common.commands.printers import TextPrinter
from common.commands.request_options import build_request, chat_turns, request_options
from tandem.v1.inference_service_pb2 import ChatMessage

HELP = "/reset forgets the conversation, /exit (or Ctrl-D) leaves, Ctrl-C stops an answer"


@click.command()
@gateway_address_options
@request_options
@click.option("--stats", is_flag=True, help="print where the time went after each answer, on stderr")
def chat(gateway: GatewayAddress, stats: bool, **flags: Any) -> None:
    """Talk to a running gateway. /reset forgets, /exit or Ctrl-D leaves, Ctrl-C stops an answer."""
    with suppress(ImportError):
        import readline  # noqa: F401  (line editing and history for input)

    with asyncio.Runner() as runner:
        connection = AsyncExitStack()
        client = runner.run(connection.enter_async_context(connected(gateway)))
        try:
            if not client.model.has_chat_template:
                raise click.ClickException(f"{client.model.name} has no chat template; use `tandem generate`")
            click.echo(f"{client.model.name}: {HELP}", err=True)
            converse(runner, client, stats, flags)
        finally:
            runner.run(connection.aclose())


def converse(runner: asyncio.Runner, client: Client, stats: bool, flags: dict[str, Any]) -> None:
    """Read turns and stream answers until the user leaves."""
    turns: list[ChatMessage] = []
    while (line := read_turn()) is not None:
        if line == "/reset":
            turns = []
        elif line.startswith("/"):
            click.echo(HELP, err=True)
        elif line:
            asked = [*turns, ChatMessage(role="user", content=line)] if turns else chat_turns(flags["system"], line)
            answer = Answer()
            try:
                # The runner turns Ctrl-C into a cancelled answer; the conversation keeps what was said.
                runner.run(stream_answer(client, build_request(asked, flags), TextPrinter(), answer))
            except KeyboardInterrupt:
                click.echo("(stopped)", err=True)
            except click.ClickException as error:
                error.show()
            if answer.text:
                turns = [*asked, ChatMessage(role="assistant", content=answer.text)]
            if stats and answer.finished:
                print_summary(answer)


def read_turn() -> str | None:
    """Return the user's next line, or None when the user leaves."""
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            click.echo(err=True)
            return None
        except KeyboardInterrupt:
            click.echo(err=True)  # at the prompt, Ctrl-C drops the line
            continue
        return None if line == "/exit" else line
