"""All cells of one gateway: every prompt at every draft length in turn, so that a changing machine hits all alike."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import click

from common.commands.bench.speculate.cell import Cell, Key, cell_of
from common.commands.bench.trace import Failure, Trace, trace
from common.commands.client import Client
from tandem.v1 import inference_service_pb2 as pb
from tandem.v1.sampling_pb2 import SamplingParams

WARM_UP_TOKENS = 24
ATTACH_TIMEOUT_S, ATTACH_PAUSE_S = 60.0, 0.2


@dataclass(frozen=True)
class Plan:
    """What to measure: each of `prompts`, `repeats` times, with each draft length at each temperature."""

    prompts: tuple[str, ...]
    lengths: tuple[int, ...]
    temperatures: tuple[float, ...]
    max_tokens: int
    repeats: int
    seed: int

    def keys(self, proposer: str, prompt_index: int) -> Iterator[Key]:
        """Yield the cells in the order in which a prompt is sent for them: there and back again, prompt by prompt."""
        for temperature in self.temperatures:
            for length in self.lengths[:: -1 if prompt_index % 2 else 1]:
                yield Key(proposer, temperature, length)


async def measure(client: Client, plan: Plan, proposer: str) -> list[Cell]:
    """Return the cells of the gateway behind `client`, by temperature and then by draft length.

    With the proposer "none" only a draft length of 0 is measured. Raises click.ClickException when a cell has no
    request answered, or a worker that was asked for never drafts.
    """
    if proposer == "none":
        plan = Plan(plan.prompts, (0,), plan.temperatures, plan.max_tokens, plan.repeats, plan.seed)
    await _warm_up(client, plan, proposer)
    traces, failures = defaultdict[Key, list[Trace]](list), defaultdict[Key, list[str]](list)
    for repeat in range(plan.repeats):
        for index, prompt in enumerate(plan.prompts):
            seed = plan.seed + repeat * len(plan.prompts) + index
            for key in plan.keys(proposer, repeat + index):
                match await trace(client, _request(client, prompt, key, seed, plan.max_tokens)):
                    case Trace() as answered:
                        traces[key].append(answered)
                    case Failure(reason):
                        failures[key].append(reason)
            done = f"{repeat * len(plan.prompts) + index + 1} of {plan.repeats * len(plan.prompts)}"
            click.echo(f"{proposer}: prompt {done}", err=True)
    for key, reasons in failures.items():
        if key not in traces:
            raise click.ClickException(f"{key}: no request was answered: {reasons[0]}")
    return [cell_of(key, traces[key], failures[key]) for key in plan.keys(proposer, 0)]


async def _warm_up(client: Client, plan: Plan, proposer: str) -> None:
    """Send short requests; where a worker drafts, until it does: it attaches some time after the gateway serves."""
    most = max(plan.lengths)
    give_up_s = time.monotonic() + ATTACH_TIMEOUT_S
    while True:
        key = Key(proposer, plan.temperatures[0], most)
        result = await trace(client, _request(client, plan.prompts[0], key, plan.seed, WARM_UP_TOKENS))
        if isinstance(result, Failure):
            raise click.ClickException(f"the gateway does not answer: {result.reason}")
        report = result.finished.speculation
        if proposer != "worker" or not most or report.drafted > report.ngram_drafted:
            return
        if time.monotonic() > give_up_s:
            raise click.ClickException(f"the draft worker has not drafted anything for {ATTACH_TIMEOUT_S:g} s")
        await asyncio.sleep(ATTACH_PAUSE_S)


def _request(client: Client, prompt: str, key: Key, seed: int, max_tokens: int) -> pb.GenerateRequest:
    """Return the request for one answer. It is a chat where the model knows such, else the prompt is continued."""
    request = pb.GenerateRequest(
        sampling=SamplingParams(temperature=key.temperature, seed=seed),
        stopping=pb.StoppingParams(max_tokens=max_tokens),
        speculation=pb.SpeculationParams(max_draft_tokens=key.max_draft_tokens),
    )
    if client.model.has_chat_template:
        request.chat.messages.add(role="user", content=prompt)
    else:
        request.text = prompt
    return request
