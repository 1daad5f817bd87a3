"""How fast is the same model through gRPC? A checkpoint of random weights, and `tandem bench` on it."""

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from shard_worker.checkpoint.known_shapes import KNOWN_SHAPES
from shard_worker.checkpoint.output_folder import OutputFolder
from shard_worker.checkpoint.random_model import random_model
from shard_worker.checkpoint.writer import write_checkpoint
from shard_worker.gpu_bench.children import output_of
from shard_worker.gpu_bench.engines import quantization_for
from shard_worker.gpu_bench.random_weights import RandomWeights
from shard_worker.gpu_bench.speed import PROMPT_TOKENS
from shard_worker.gpu_bench.stages import Mode

_LOAD_SECONDS = 10.0
_SPARE_TOKENS = 64


@dataclass(frozen=True)
class ServedSpeed:
    """Tokens a second of all streams together, as clients of the public API count them."""

    shape: str
    mode: str
    batch: int
    tokens_per_s: float
    decode_tokens_per_s: float | None


def served_speeds(
    shape: str, mode: Mode, batches: Sequence[int], num_tokens: int, device: torch.device, limit_s: float
) -> list[ServedSpeed]:
    """Return the speed of a gateway and one rank for each number of streams. Raises StageFailed, CheckpointError."""
    kv_tokens = max(batches) * (num_tokens + PROMPT_TOKENS + _SPARE_TOKENS)
    with tempfile.TemporaryDirectory(prefix="tandem-bench-gpu-") as scratch:
        folder, results = Path(scratch) / "model", Path(scratch) / "results.json"
        write_random_checkpoint(folder, shape, mode, device)
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the rank needs the room
        command = [
            *(sys.executable, "-m", "common.cli.main", "bench", "--model", str(folder), "--json", str(results)),
            *("--device", str(device), "--dtype", "bfloat16", "--peak-gb-s", "1"),
            *("--concurrency", ",".join(map(str, batches)), "--seconds", str(_LOAD_SECONDS)),
            *("--prompt-tokens", str(PROMPT_TOKENS), "--output-tokens", str(num_tokens)),
            *("--shard", f"kv_cache_tokens={kv_tokens}"),
        ]
        output_of(command, limit_s)
        measured = json.loads(results.read_text())
    single = measured["single_stream"] or {}
    return [
        ServedSpeed(
            shape=shape,
            mode=mode,
            batch=load["offered"],
            tokens_per_s=load["tokens_per_s"],
            decode_tokens_per_s=single.get("grpc_tokens_per_s") if load["offered"] == 1 else None,
        )
        for load in measured["loads"]
    ]


def write_random_checkpoint(folder: Path, shape: str, mode: Mode, device: torch.device) -> None:
    """Write a checkpoint of random weights, drawn on `device` in the form in which they are stored."""
    architecture = KNOWN_SHAPES[shape]
    quantization = quantization_for(architecture, mode)
    tensors = RandomWeights(architecture, quantization, "bfloat16", device)
    model = replace(random_model(shape, 0), tensors=tensors, quantization=quantization)
    with OutputFolder(folder) as output:
        write_checkpoint(model, output, f"{shape}-{mode}-random", "bfloat16", lambda what, done, total: None)
