"""All stages, one after the other, each in a process that can be ended: a failed one is told and does not end the run.

A process of its own also gives back all of the device's memory.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.parent_death import DIE_WITH_PARENT
from shard_worker.gpu_bench.children import StageFailed, output_of
from shard_worker.gpu_bench.stages import Stage

# Less than this is not worth a start.
_LEAST_S = 5.0


@dataclass(frozen=True)
class Outcome:
    """What a stage answered, or why it did not."""

    stage: Stage
    seconds_s: float
    answer: list[dict[str, Any]] = field(default_factory=list)
    failure: str | None = None


def run_stages(stages: Sequence[Stage], budget_s: float, tell: Callable[[str], None]) -> list[Outcome]:
    """Return the outcome of every stage; what the budget leaves no time for fails with that reason."""
    ends_s = time.monotonic() + budget_s
    outcomes = []
    for stage in stages:
        outcome = _run(stage, min(stage.limit_s, ends_s - time.monotonic()))
        tell(f"{stage.name}: {outcome.failure or 'done'} ({outcome.seconds_s:.1f} s)")
        outcomes.append(outcome)
    return outcomes


def _run(stage: Stage, limit_s: float) -> Outcome:
    if limit_s < _LEAST_S:
        return Outcome(stage, 0.0, failure="no time was left")
    began_s = time.monotonic()
    arguments = json.dumps({**stage.arguments, "limit_s": limit_s})
    command = [sys.executable, "-m", "shard_worker.gpu_bench.stage", stage.kind, arguments]
    answer: list[dict[str, Any]] = []
    failure = None
    try:
        answer = json.loads(
            output_of(command, limit_s, environment={DIE_WITH_PARENT: str(os.getpid())}).splitlines()[-1]
        )
    except StageFailed as error:
        failure = str(error)
    except (ValueError, IndexError):
        failure = "no answer"
    return Outcome(stage, time.monotonic() - began_s, answer, failure)
