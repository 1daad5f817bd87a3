"""`tandem demo`: everything once. Start a gateway and its ranks, stream one answer, stop everything."""

import asyncio
import os
from typing import Any

import click

from common.cli.log_level import log_level_option
from common.commands.answer import Answer, stream_answer
from common.commands.client import connected
from common.commands.generate import print_summary, request_for
from common.commands.printers import TextPrinter
from common.commands.request_options import request_options
from common.commands.stack import Plan, running_stack
from common.commands.up_children import NGRAM, plan_stages
from common.commands.up_settings import UpSettings
from common.model_store import EMBEDDED_MODEL
from common.process import set_up_logging
from common.settings_sources import resolve
from common.supervisor import ChildEnded, Stopped

PROMPT = "What is tensor parallelism? Answer in two sentences."
MAX_TOKENS = 64
DRAFT = f"{EMBEDDED_MODEL}-int4"  # of the embedded model; another one drafts from its own text, if nothing else is said


@click.command()
@click.argument("prompt", default=PROMPT)
@click.option("--model", help="as in `tandem up`")
@click.option("--tp", default="2", show_default=True, metavar="INTEGER", help="number of tensor-parallel ranks")
@click.option("--draft", default=DRAFT, show_default=True, help="as in `tandem up`; an empty one drafts nothing")
@click.option("--device", help="as in `tandem up`")
@click.option("--dtype", help="as in `tandem up`")
@request_options
@log_level_option("warning")
def demo(
    prompt: str,
    model: str | None,
    tp: str,
    draft: str,
    device: str | None,
    dtype: str | None,
    log_level: str,
    **request_flags: Any,
) -> int:
    """Start a gateway, its ranks and a draft worker, stream one answer, show where the time went, stop.

    On a terminal, what the draft had foretold is green.
    """
    flags = {"model": model, "tp": tp, "device": device, "dtype": dtype, "listen": "127.0.0.1:0"}
    flags["draft"] = (draft if model is None or draft != DRAFT else NGRAM) or None
    settings = resolve(UpSettings, "TANDEM_UP", flags, os.environ)
    set_up_logging("demo", log_level)
    if request_flags["max_tokens"] is None:
        request_flags["max_tokens"] = MAX_TOKENS
    return asyncio.run(run(settings, prompt, request_flags))


async def run(settings: UpSettings, prompt: str, request_flags: dict[str, Any], plan: Plan = plan_stages) -> int:
    """Return 0 after the whole answer, 1 when a child died, 130 when a signal came first."""
    try:
        async with running_stack(settings, plan) as stack:
            await stack.supervisor.while_running(show_answer(stack.address, prompt, request_flags))
    except Stopped:
        return 130
    except ChildEnded as error:
        click.echo(f"tandem: {error}", err=True)
        return 1
    return 0


async def show_answer(address: str, prompt: str, request_flags: dict[str, Any]) -> None:
    """Stream one answer and its summary from the gateway at `address`."""
    answer = Answer()
    async with connected(address) as client:
        request = request_for(client, prompt, None, request_flags)
        await stream_answer(client, request, TextPrinter(), answer)
    print_summary(answer)
