"""`tandem generate`: one prompt, one streamed answer."""

import asyncio
from typing import Any

import click

from common.commands.answer import Answer, stream_answer
from common.commands.client import Client, connected
from common.commands.gateway_address import GatewayAddress, gateway_address_options
from common.commands.printers import JsonPrinter, TextPrinter
from common.commands.request_options import build_request, chat_turns, prompt_or_stdin, request_options
from common.commands.summary import summary_lines
from tandem.v1.inference_service_pb2 import GenerateRequest


@click.command()
@click.argument("prompt", required=False)
@gateway_address_options
@click.option("--chat/--no-chat", default=None, help="as a user's turn or as plain text; default: as the model can")
@request_options
@click.option("--logprobs", type=click.INT, help="add log-probabilities and N alternatives; needs --json")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object a line")
@click.option("--stats", is_flag=True, help="print where the time went, on stderr")
def generate(
    prompt: str | None,
    gateway: GatewayAddress,
    chat: bool | None,
    logprobs: int | None,
    as_json: bool,
    stats: bool,
    **flags: Any,
) -> None:
    """Stream the answer to PROMPT (or to standard input) from a running gateway."""
    if logprobs is not None and not as_json:
        raise click.UsageError("--logprobs needs --json")
    if flags["system"] and chat is False:
        raise click.UsageError("--system needs a chat prompt")
    prompt = prompt_or_stdin(prompt)
    asyncio.run(_generate(prompt, gateway, chat, logprobs, as_json, stats, flags))


async def _generate(
    prompt: str,
    gateway: GatewayAddress,
    chat: bool | None,
    logprobs: int | None,
    as_json: bool,
    stats: bool,
    flags: dict[str, Any],
) -> None:
    async with connected(gateway) as client:
        request = request_for(client, prompt, chat, flags, logprobs)
        answer = Answer()
        await stream_answer(client, request, JsonPrinter() if as_json else TextPrinter(), answer)
    if stats:
        print_summary(answer)


def request_for(
    client: Client, prompt: str, chat: bool | None, flags: dict[str, Any], logprobs: int | None = None
) -> GenerateRequest:
    """Return the request: a user's turn where `chat` says so; None means where the model has a template."""
    as_chat = client.model.has_chat_template if chat is None else chat
    if flags["system"] and not as_chat:
        raise click.UsageError(f"--system needs a chat template, which {client.model.name} has not")
    return build_request(chat_turns(flags["system"], prompt) if as_chat else prompt, flags, logprobs)


def print_summary(answer: Answer) -> None:
    """Print the answer's waterfall on stderr."""
    assert answer.finished is not None
    for line in summary_lines(answer.finished):
        click.echo(line, err=True)
