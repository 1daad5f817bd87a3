"""How fast is the memory, and how fast an engine alone?"""

import random
import time
from dataclasses import dataclass
from statistics import median

import torch

from shard_worker.checkpoint.known_shapes import KNOWN_SHAPES
from shard_worker.gpu_bench.engines import Place, build_engine, bytes_per_step, quantization_for
from shard_worker.gpu_bench.generation import GREEDY, TOP_K_200, Drawing, generate, kv_tokens_of
from shard_worker.gpu_bench.random_weights import RandomWeights
from shard_worker.gpu_bench.stages import Mode

COPY_BYTES = {"cuda": 2 << 30, "cpu": 64 << 20}
COPIES = 10
# The length of gpt-fast's prompt, "Hello, my name is".
PROMPT_TOKENS = 6
WARM_UP_TOKENS = 8
RUNS = 3


@dataclass(frozen=True)
class EngineSpeed:
    """Median of the runs. `whole` counts prefill in, as gpt-fast does; all rates are of all streams together."""

    shape: str
    mode: str
    batch: int
    drawing: str
    whole_tokens_per_s: float
    decode_tokens_per_s: float
    step_ms: float
    prefill_ms: float
    bytes_per_step: int
    load_s: float


def copy_gb_per_s(device: torch.device) -> float:
    """Return the best rate of copying within the device's memory, bytes read and written, 10^9 a second."""
    source = torch.ones(COPY_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    best_s = float("inf")
    for _ in range(COPIES):
        _wait(device)
        began_s = time.perf_counter()
        target.copy_(source)
        _wait(device)
        best_s = min(best_s, time.perf_counter() - began_s)
    return 2 * source.nbytes / best_s / 1e9


def engine_speeds(
    shape: str, mode: Mode, batches: list[int], num_tokens: int, device: torch.device
) -> list[EngineSpeed]:
    """Return the speeds of an engine with random weights, for each batch: greedy, and with top_k as gpt-fast has it."""
    architecture = KNOWN_SHAPES[shape]
    quantization = quantization_for(architecture, mode)
    began_s = time.perf_counter()
    source = RandomWeights(architecture, quantization, "bfloat16", device)
    prompts = {n: _prompts(n) for n in batches}
    kv_tokens = max(kv_tokens_of(some, num_tokens) for some in prompts.values())
    engine = build_engine(source, architecture, quantization, Place(device), kv_tokens)
    load_s = time.perf_counter() - began_s
    found = []
    drawings: dict[str, Drawing] = {"greedy": GREEDY, "top_k 200, T 0.8": TOP_K_200}
    for batch, some in prompts.items():
        for name, drawing in drawings.items():
            generate(engine, some, min(WARM_UP_TOKENS, num_tokens), drawing)
            runs = [generate(engine, some, num_tokens, drawing) for _ in range(RUNS)]
            total_s = median(run.total_s for run in runs)
            decode_s = median(run.total_s - run.prefill_s for run in runs)
            steps = max(1, num_tokens - 1)
            found.append(
                EngineSpeed(
                    shape=shape,
                    mode=mode,
                    batch=batch,
                    drawing=name,
                    whole_tokens_per_s=batch * num_tokens / total_s,
                    decode_tokens_per_s=batch * steps / decode_s,
                    step_ms=decode_s / steps * 1e3,
                    prefill_ms=median(run.prefill_s for run in runs) * 1e3,
                    bytes_per_step=bytes_per_step(architecture, quantization, "bfloat16"),
                    load_s=load_s,
                )
            )
    return found


def _prompts(count: int) -> list[list[int]]:
    return [random.Random(seed).choices(range(256), k=PROMPT_TOKENS) for seed in range(count)]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
