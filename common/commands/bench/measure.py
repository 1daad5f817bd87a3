"""All measurements of one gateway, in order: warm up, each load, the single stream's prefill, the comparison."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, median

import click

from common.commands.bench.compare import Comparison, Metric, Pattern, compare
from common.commands.bench.drive import Bounds, drive
from common.commands.bench.hops import SingleStream, single_stream
from common.commands.bench.load import ClosedLoop, Lengths, Load, OpenLoop, Work
from common.commands.bench.statistics import LoadResult, load_result
from common.commands.bench.trace import Failure, Trace, trace
from common.commands.client import Client
from tandem.v1.inference_service_pb2 import GenerateRequest, GetModelResponse

ONE = ClosedLoop(1)
WARM_UP_TOKENS = 16
PREFILL_REQUESTS = 5
COMPARE_REQUESTS = 3
OPEN_REQUESTS = 32


@dataclass(frozen=True)
class Plan:
    """What to measure. `requests` None takes a number that fits each load."""

    loads: tuple[Load, ...]
    prompt_tokens: Lengths
    output_tokens: Lengths
    temperature: float
    warm_up_requests: int
    requests: int | None
    seconds_s: float
    seed: int
    salt: str
    compare_command: tuple[str, ...] | None
    compare_patterns: tuple[Pattern, ...]
    compare_pairs: int
    compare_timeout_s: float

    def bounds(self, load: Load) -> Bounds:
        """Return how many requests `load` sends, and for how long. Each client of a closed loop sends one at least."""
        if isinstance(load, OpenLoop):
            return Bounds(self.requests or OPEN_REQUESTS, self.seconds_s)
        return Bounds(max(load.streams, self.requests or max(4, 2 * load.streams)), self.seconds_s)


@dataclass(frozen=True)
class Measured:
    """What the measurements gave. `one` is a single stream's request of median duration."""

    model: GetModelResponse
    loads: tuple[LoadResult, ...]
    single_stream: SingleStream | None
    one: Trace | None
    comparison: Comparison | None


async def measure(client: Client, plan: Plan) -> Measured:
    """Put the loads of `plan` on the gateway behind `client`, one after the other.

    Raises click.ClickException when the lengths do not fit the model, or a load has no request answered.
    """
    check_lengths(plan, client.model)
    bench = _Bench(client, plan)
    results, single, prefill = [], list[Trace](), list[Trace]()
    for load in plan.loads:
        await bench.warm_up(load)
        traces = await bench.run(load, str(load), plan.bounds(load))
        result = load_result(load, traces)
        if result is None:
            reason = traces[0].reason if traces and isinstance(traces[0], Failure) else "none was sent in time"
            raise click.ClickException(f"{load}: no request was answered: {reason}")
        click.echo(
            f"{load}: {result.requests} requests in {result.span_s:.1f} s, {result.tokens_per_s:.1f} tokens/s", err=True
        )
        results.append(result)
        if load == ONE:
            single = [t for t in traces if isinstance(t, Trace)]
            prefill = await bench.prefill()
    comparison = await bench.compare(plan.compare_command) if plan.compare_command else None
    one = sorted(single, key=lambda t: t.duration_ns)[len(single) // 2] if single else None
    return Measured(client.model, tuple(results), single_stream(single, prefill), one, comparison)


def check_lengths(plan: Plan, model: GetModelResponse) -> None:
    """Raise click.UsageError when prompts and answers of these lengths cannot be asked for."""
    longest = plan.prompt_tokens.most + plan.output_tokens.most
    if longest > model.context_length:
        raise click.UsageError(f"prompt and output of {longest} tokens exceed the context of {model.context_length}")
    if plan.output_tokens.most > model.max_new_tokens:
        raise click.UsageError(f"the gateway generates at most {model.max_new_tokens} tokens")


class _Bench:
    """A gateway, and the requests that are sent to it."""

    def __init__(self, client: Client, plan: Plan) -> None:
        self._client, self._plan = client, plan
        self._work = Work(
            plan.prompt_tokens, plan.output_tokens, client.model.vocabulary_size, plan.temperature, plan.salt
        )
        self._comparisons = 0

    async def run(self, load: Load, name: str, bounds: Bounds) -> Sequence[Trace | Failure]:
        """Put `load` on the gateway; requests of another name have other prompts."""
        return await drive(self._send, load, self._work.requests(name), bounds, self._plan.seed)

    async def warm_up(self, load: Load) -> None:
        """Send short requests, as many at a time as `load` will: what depends on a step's size is made ready."""
        streams = load if isinstance(load, ClosedLoop) else ONE
        bounds = Bounds(self._plan.warm_up_requests * streams.streams, self._plan.seconds_s)
        await self._run_short(streams, f"warm-up of {load}", WARM_UP_TOKENS, bounds)

    async def prefill(self) -> list[Trace]:
        """Return requests for one token each, one at a time."""
        results = await self._run_short(ONE, "prefill", 1, Bounds(PREFILL_REQUESTS, self._plan.seconds_s))
        return [result for result in results if isinstance(result, Trace)]

    async def _run_short(self, load: Load, name: str, most_tokens: int, bounds: Bounds) -> Sequence[Trace | Failure]:
        def shortened() -> Iterator[GenerateRequest]:
            for request in self._work.requests(name):
                request.stopping.max_tokens = min(request.stopping.max_tokens, most_tokens)
                yield request

        return await drive(self._send, load, shortened(), bounds, self._plan.seed)

    async def compare(self, command: Sequence[str]) -> Comparison:
        """Compare a single stream with another program."""
        plan = self._plan
        return await compare(
            command, plan.compare_patterns, plan.compare_pairs, plan.compare_timeout_s, self._single_stream
        )

    async def _single_stream(self) -> dict[Metric, float]:
        self._comparisons += 1
        name = f"comparison {self._comparisons}"
        results = await self.run(ONE, name, Bounds(1 + COMPARE_REQUESTS, self._plan.seconds_s))
        traces = [result for result in results if isinstance(result, Trace)]
        measured = traces[1:] or traces  # the first one is the warm-up
        if not measured:
            raise click.ClickException("no request of ours was answered")
        return {
            "decode": median(t.decoded_tokens / max(1, t.decode_ns) * 1e9 for t in measured),
            "whole": mean(t.tokens / t.duration_ns * 1e9 for t in measured),
        }

    async def _send(self, request: GenerateRequest, due_ns: int | None) -> Trace | Failure:
        return await trace(self._client, request, due_ns)


def loads(streams: Sequence[int], rates_per_s: Sequence[float]) -> tuple[Load, ...]:
    """Return the closed loops, then the open ones, fewest first."""
    closed: list[Load] = [ClosedLoop(n) for n in sorted(set(streams))]
    return (*closed, *(OpenLoop(rate) for rate in sorted(set(rates_per_s))))
