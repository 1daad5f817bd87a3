"""The gateway's part in its plainest form: prompts in, tokens fed back, all streams in one batch; timed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common.arrays import I32, U32, from_wire, to_wire
from shard_worker.engine import Engine
from shard_worker.gpu_bench.engines import BLOCK_SIZE_TOKENS
from tandem.shard.v1 import shard_service_pb2 as pb


@dataclass(frozen=True)
class Drawing:
    """How tokens are drawn, and what lists the gateway would ask for then."""

    temperature: float = 0.0
    num_noised: int = 1
    num_top: int = 0


GREEDY = Drawing()
# What the gateway asks for at top_k 200, gpt-fast's default.
TOP_K_200 = Drawing(temperature=0.8, num_noised=8, num_top=200)


@dataclass(frozen=True)
class Generated:
    """The ids of each stream, and the time from the first step's beginning: to the first ids, and to the last."""

    ids: list[list[int]]
    prefill_s: float
    total_s: float


def generate(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    num_tokens: int,
    drawing: Drawing = GREEDY,
    after_step: Callable[[Engine], None] | None = None,
) -> Generated:
    """Return `num_tokens` ids for each prompt; `after_step` may look at each step's logits. Prompts go in whole."""
    engine.reset()
    answers: list[list[int]] = [[] for _ in prompts]
    began_s = time.perf_counter()
    prefill_s = 0.0
    for step in range(num_tokens):
        result = engine.step(_plan(prompts, answers, num_tokens, drawing), time.perf_counter_ns())
        drawn = from_wire(result.noised_ids, I32, (len(prompts), -1), "noised_ids")[:, 0].tolist()
        for answer, id in zip(answers, drawn, strict=True):
            answer.append(id)
        if step == 0:
            prefill_s = time.perf_counter() - began_s
        if after_step is not None:
            after_step(engine)
    return Generated(answers, prefill_s, time.perf_counter() - began_s)


def kv_tokens_of(prompts: Sequence[Sequence[int]], num_tokens: int) -> int:
    """Return how large a cache `generate` needs."""
    return sum(_blocks(prompt, num_tokens) for prompt in prompts) * BLOCK_SIZE_TOKENS


def _plan(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], num_tokens: int, drawing: Drawing
) -> pb.Plan:
    first = not answers[0]
    opens = [
        pb.SequenceOpen(sequence=stream, seed=stream, temperature=drawing.temperature, repetition_penalty=1.0)
        for stream in range(len(prompts))
    ]
    rows = [list(prompt) if first else [answer[-1]] for prompt, answer in zip(prompts, answers, strict=True)]
    bases = [0 if first else len(p) + len(a) - 1 for p, a in zip(prompts, answers, strict=True)]
    blocks = [_blocks(prompt, num_tokens) for prompt in prompts]
    return pb.Plan(
        opens=opens if first else [],
        row_sequences=to_wire(range(len(rows)), U32),
        row_base_lengths=to_wire(bases, U32),
        row_lengths=to_wire([len(row) for row in rows], U32),
        row_sampled=to_wire([1] * len(rows), U32),
        row_scored=to_wire([0] * len(rows), U32),
        token_ids=to_wire([id for row in rows for id in row], I32),
        row_blocks=to_wire(blocks, U32),
        block_tables=to_wire(np.arange(sum(blocks)), I32),
        num_noised=drawing.num_noised,
        num_top=drawing.num_top,
    )


def _blocks(prompt: Sequence[int], num_tokens: int) -> int:
    return -(-(len(prompt) + num_tokens) // BLOCK_SIZE_TOKENS)
