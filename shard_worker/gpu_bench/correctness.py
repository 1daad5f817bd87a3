"""Does the device compute what a CPU computes in plain PyTorch? Logits, greedy ids, and graphs against no graphs."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.arrays import F32, from_wire
from common.manifest import Architecture, Quantization, read_manifest
from shard_worker.checkpoint.known_shapes import KNOWN_SHAPES
from shard_worker.checkpoint.reader import CheckpointReader
from shard_worker.engine import Engine
from shard_worker.gpu_bench.engines import Place, build_engine, quantization_for
from shard_worker.gpu_bench.generation import generate, kv_tokens_of
from shard_worker.gpu_bench.random_weights import RandomWeights
from shard_worker.gpu_bench.stages import MODES
from shard_worker.model.matrices import TensorSource

CPU = torch.device("cpu")
NUM_TOKENS = 12
# One token of decode, several rows in a bucket with padding, prompts beyond a bucket's size.
PROMPT_LENGTHS = (1, 17, 90)
# Largest difference over the largest logit. float32 differs in the order of sums alone.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.08}


@dataclass(frozen=True)
class Check:
    """One claim, and the figure that it was judged by."""

    what: str
    holds: bool
    figure: str


@dataclass(frozen=True)
class Subject:
    """A model to check, and how its weights are opened anew for each engine."""

    name: str
    architecture: Architecture
    quantization: Quantization
    source: Callable[[], TensorSource]


def check_all(device: torch.device, checkpoint: Path | None) -> Iterator[Check]:
    """Yield the checks of tiny random models in all formats, then those of a checkpoint."""
    architecture = KNOWN_SHAPES["tiny"]
    for mode in MODES:
        quantization = quantization_for(architecture, mode)
        weights = RandomWeights(architecture, quantization, "float32", CPU)
        yield from check(Subject(f"tiny {mode}", architecture, quantization, lambda w=weights: w), device)  # type: ignore[misc]
    if checkpoint is not None:
        manifest, _ = read_manifest(checkpoint)
        subject = Subject(
            manifest.name, manifest.architecture, manifest.quantization, lambda: CheckpointReader(checkpoint)
        )
        yield from check(subject, device)


def check(subject: Subject, device: torch.device) -> Iterator[Check]:
    """Yield what holds of one model."""
    prompts = _prompts(subject.architecture.vocabulary_size)
    exact = _run(subject, Place(CPU, "float32", "off"), prompts)
    fast = _run(subject, Place(device, "float32"), prompts)
    equal = fast.ids == exact.ids
    yield Check(f"{subject.name}: greedy ids in float32 are the CPU's", equal, f"{_same(fast, exact)} of the ids")
    for dtype, run in (("float32", fast), ("bfloat16", _run(subject, Place(device, "bfloat16"), prompts))):
        # Past the first step a bfloat16 run may follow other ids.
        steps = NUM_TOKENS if run.ids == exact.ids else 1
        error = max(_difference(a, b) for a, b in zip(run.logits[:steps], exact.logits[:steps], strict=True))
        what = f"{subject.name}: logits in {dtype} are the CPU's float32, {steps} steps"
        yield Check(what, error <= TOLERANCE[dtype], f"{error:.1e} of the largest logit")
    if device.type == "cuda":
        plain = _run(subject, Place(device, "float32", "unrecorded"), prompts)
        same = all(torch.equal(a, b) for a, b in zip(fast.logits, plain.logits, strict=True))
        yield Check(f"{subject.name}: graphs on and off give the same bits", same, f"{NUM_TOKENS} steps")


@dataclass(frozen=True)
class _Run:
    ids: list[list[int]]
    logits: list[Tensor]


def _run(subject: Subject, place: Place, prompts: Sequence[Sequence[int]]) -> _Run:
    kv_tokens = kv_tokens_of(prompts, NUM_TOKENS)
    engine = build_engine(subject.source(), subject.architecture, subject.quantization, place, kv_tokens)
    logits: list[Tensor] = []

    def look(engine: Engine) -> None:
        rows = [engine.resolve(position).raw for position in range(len(prompts))]
        logits.append(torch.stack([torch.from_numpy(from_wire(row, F32, (-1,), "raw").copy()) for row in rows]))

    return _Run(generate(engine, prompts, NUM_TOKENS, after_step=look).ids, logits)


def _prompts(vocabulary_size: int) -> list[list[int]]:
    return [random.Random(n).choices(range(min(256, vocabulary_size)), k=n) for n in PROMPT_LENGTHS]


def _difference(ours: Tensor, exact: Tensor) -> float:
    return float((ours - exact).abs().max() / exact.abs().max())


def _same(one: _Run, other: _Run) -> str:
    pairs = [a == b for x, y in zip(one.ids, other.ids, strict=True) for a, b in zip(x, y, strict=True)]
    return f"{sum(pairs)}/{len(pairs)}"
