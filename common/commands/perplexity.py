"""`tandem perplexity`: how well a served model predicts a text."""

import asyncio
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import grpc

from common.commands.client import Client, connected
from common.commands.gateway_address import GatewayAddress, gateway_address_options
from common.commands.in_order import in_order
from common.commands.text_windows import Window, spread, tokenize, windows_over
from common.status import read_error
from tandem.v1 import inference_service_pb2 as pb

DEFAULT_WINDOW_TOKENS = 1024
CONCURRENCY = 4  # windows are as wide as a step: more at once wait in the gateway instead of here


@dataclass(frozen=True)
class Perplexity:
    """What was found. `tokens` were scored, of the `text_tokens` that the text's `text_bytes` are."""

    model: str
    dtype: str
    quantization: str
    window: int
    stride: int
    text_bytes: int
    text_tokens: int
    tokens: int
    nats_per_token: float

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-probability."""
        return math.exp(self.nats_per_token)

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers: bits of a mean token, by the mean bytes of one."""
        return self.nats_per_token / math.log(2) * self.text_tokens / self.text_bytes


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@gateway_address_options
@click.option(
    "--window",
    type=click.IntRange(min=2),
    help=f"tokens seen at once  [default: {DEFAULT_WINDOW_TOKENS}, or the model's context]",
)
@click.option(
    "--stride",
    type=click.IntRange(min=1),
    help="tokens from one window to the next; the rest of a window is context only  [default: the window]",
)
@click.option("--max-tokens", type=click.IntRange(min=1), help="score about this many tokens, spread over the text")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def perplexity(
    file: Path,
    gateway: GatewayAddress,
    window: int | None,
    stride: int | None,
    max_tokens: int | None,
    as_json: bool,
) -> None:
    """Print the perplexity of FILE's text, of any length, to the model that a running gateway serves.

    Perplexity is exp of the mean negative log-probability of a token. The text is read in windows; each token is scored
    once, with at least window - stride tokens of context; a window's first token, where nothing overlaps, is context
    only. Compare perplexities only where tokenizer, window and stride are the same; bits per byte need no tokenizer.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{file}: {error}") from None
    found = asyncio.run(_perplexity(text, gateway, window, stride, max_tokens))
    if as_json:
        click.echo(json.dumps(asdict(found) | {"perplexity": found.perplexity, "bits_per_byte": found.bits_per_byte}))
        return
    click.echo(
        f"{found.perplexity:.4f} ({found.nats_per_token:.5f} nats a token over {found.tokens} tokens, "
        f"{found.bits_per_byte:.4f} bits a byte; windows of {found.window}, stride {found.stride}; "
        f"{found.model}, {found.dtype}, quantization {found.quantization})"
    )


async def _perplexity(
    text: str, gateway: GatewayAddress, window: int | None, stride: int | None, max_tokens: int | None
) -> Perplexity:
    async with connected(gateway) as client:
        window = window or min(DEFAULT_WINDOW_TOKENS, client.model.context_length)
        stride = stride or window
        if stride > window:
            raise click.UsageError("--stride cannot be larger than --window")
        try:
            ids = await tokenize(client.stub, text)
            windows = spread(list(windows_over(len(ids), window, stride)), max_tokens)
            if not windows:
                raise click.ClickException("the text is shorter than two tokens")
            total = await _score(client, ids, windows)
        except grpc.aio.AioRpcError as error:
            raise click.ClickException(read_error(error)) from None
    tokens = sum(each.scored for each in windows)
    return Perplexity(
        model=client.model.name,
        dtype=client.model.dtype,
        quantization=client.model.quantization,
        window=window,
        stride=stride,
        text_bytes=len(text.encode()),
        text_tokens=len(ids),
        tokens=tokens,
        nats_per_token=total / tokens,
    )


async def _score(client: Client, ids: Sequence[int], windows: Sequence[Window]) -> float:
    """Return the sum of negative log-probabilities, in nats."""

    async def score(window: Window) -> float:
        answer = await client.stub.Score(
            pb.ScoreRequest(
                token_ids=pb.TokenIds(ids=ids[window.start : window.stop]),
                first_position=window.first - window.start,
            )
        )
        assert len(answer.logprobs) == window.scored
        return -math.fsum(entry.logprob for entry in answer.logprobs)

    with click.progressbar(length=len(windows), label="scoring", file=sys.stderr) as bar:
        return math.fsum(await in_order(windows, score, CONCURRENCY, bar.update))
