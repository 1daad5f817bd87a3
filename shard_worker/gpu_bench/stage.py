"""One stage in this process: `python -m shard_worker.gpu_bench.stage KIND ARGUMENTS`, arguments and answer as JSON."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from common.errors import TandemError
from common.parent_death import die_with_parent_if_told
from shard_worker.device import usable_device
from shard_worker.gpu_bench.correctness import check_all
from shard_worker.gpu_bench.gpt_fast import gpt_fast_speed
from shard_worker.gpu_bench.served import served_speeds
from shard_worker.gpu_bench.speed import copy_gb_per_s, engine_speeds

Answer = list[dict[str, Any]]

# What runs within a stage must be over before the stage is.
_MARGIN_S = 5.0


def copy(device: str, limit_s: float) -> Answer:
    """Measure the device's bandwidth."""
    place = usable_device(device)
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else "CPU"
    return [{"gb_per_s": copy_gb_per_s(place), "device_name": name, "torch": torch.__version__}]


def correctness(device: str, checkpoint: str | None, limit_s: float) -> Answer:
    """Check against the CPU."""
    return [asdict(check) for check in check_all(usable_device(device), Path(checkpoint) if checkpoint else None)]


def engine(device: str, limit_s: float, **what: Any) -> Answer:
    """Measure an engine alone."""
    return [asdict(speed) for speed in engine_speeds(device=usable_device(device), **what)]


def gpt_fast(folder: str, limit_s: float, **what: Any) -> Answer:
    """Measure gpt-fast."""
    return [asdict(gpt_fast_speed(Path(folder), limit_s=limit_s - _MARGIN_S, **what))]


def served(device: str, limit_s: float, **what: Any) -> Answer:
    """Measure through gRPC."""
    found = served_speeds(device=usable_device(device), limit_s=limit_s - _MARGIN_S, **what)
    return [asdict(speed) for speed in found]


STAGES: dict[str, Callable[..., Answer]] = {
    "copy": copy,
    "correctness": correctness,
    "engine": engine,
    "gpt-fast": gpt_fast,
    "served": served,
}


def main() -> None:
    """Run the stage that the command line names; its answer is the last line printed."""
    die_with_parent_if_told()
    kind, arguments = sys.argv[1:]
    try:
        print("\n" + json.dumps(STAGES[kind](**json.loads(arguments))))
    except TandemError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
