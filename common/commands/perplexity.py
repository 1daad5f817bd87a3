"""`tandem perplexity`: how well a served model predicts a text."""

import asyncio
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import grpc

from common.commands.client import Client, connected
from common.commands.gateway_address import GatewayAddress, gateway_address_options
from common.status import read_error
from tandem.v1 import inference_service_pb2 as pb

DEFAULT_WINDOW_TOKENS = 1024


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@gateway_address_options
@click.option(
    "--window",
    type=click.IntRange(min=2),
    help=f"tokens seen at once  [default: {DEFAULT_WINDOW_TOKENS}, or the model's context]",
)
@click.option("--max-tokens", type=click.IntRange(min=2), help="score this many tokens, spread over the text, at most")
def perplexity(file: Path, gateway: GatewayAddress, window: int | None, max_tokens: int | None) -> None:
    """Print exp of the mean negative log-probability that a running gateway gives to the tokens of FILE.

    The text is cut into windows that do not overlap; each window's first token is context only. Compare two models only
    where they share a tokenizer, and with the same window.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{file}: {error}") from None
    asyncio.run(_perplexity(text, gateway, window, max_tokens))


async def _perplexity(text: str, gateway: GatewayAddress, window: int | None, max_tokens: int | None) -> None:
    async with connected(gateway) as client:
        window = window or min(DEFAULT_WINDOW_TOKENS, client.model.context_length)
        try:
            ids = (await client.stub.Tokenize(pb.TokenizeRequest(text=text))).token_ids
            windows = list(spread_windows(ids, window, max_tokens))
            if not windows:
                raise click.ClickException("the text is shorter than two tokens")
            total, count = await _score(client, windows)
        except grpc.aio.AioRpcError as error:
            raise click.ClickException(read_error(error)) from None
    mean = total / count
    click.echo(
        f"{math.exp(mean):.4f} ({mean:.5f} nats a token over {count} tokens, windows of {window}; "
        f"{client.model.name}, {client.model.dtype}, quantization {client.model.quantization})"
    )


async def _score(client: Client, windows: Sequence[Sequence[int]]) -> tuple[float, int]:
    """Return the sum of negative log-probabilities and how many they are."""
    total, count = 0.0, 0
    with click.progressbar(windows, label="scoring", file=sys.stderr) as bar:
        for ids in bar:
            answer = await client.stub.Score(pb.ScoreRequest(token_ids=pb.TokenIds(ids=ids)))
            total -= math.fsum(entry.logprob for entry in answer.logprobs)
            count += len(answer.logprobs)
    return total, count


def spread_windows(ids: Sequence[int], window: int, max_tokens: int | None) -> Iterator[Sequence[int]]:
    """Yield consecutive windows of `window` ids, all of them or, evenly spread, as many as `max_tokens` allows.

    A last shorter window is left out, unless it is the only one and has two ids or more.
    """
    if len(ids) < window:
        if len(ids) >= 2:
            yield ids
        return
    available = len(ids) // window
    wanted = available if max_tokens is None else min(available, max(1, max_tokens // window))
    for index in range(wanted):
        start = index * available // wanted * window
        yield ids[start : start + window]
