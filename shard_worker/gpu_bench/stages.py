"""Which measurements does a run make, in which order, and how long may each take?

What tells most comes first, since the deadline may cut the rest off.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Mode = Literal["bf16", "int8", "int4"]
MODES: tuple[Mode, ...] = ("bf16", "int8", "int4")

KINDS = ("copy", "correctness", "engine", "gpt-fast", "served")
# Most of an engine's time is the compiler's; gpt-fast compiles its whole model anew.
_LIMIT_S = {"copy": 30.0, "correctness": 120.0, "engine": 80.0, "gpt-fast": 150.0, "served": 110.0}


@dataclass(frozen=True)
class Stage:
    """One measurement. `arguments` are those of its function in `stage`, as JSON."""

    kind: str
    name: str
    limit_s: float
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """What is to be measured."""

    device: str
    shapes: Sequence[str]
    modes: Sequence[Mode]
    batches: Sequence[int]
    num_tokens: int
    kinds: Sequence[str] = KINDS
    checkpoint: Path | None = None
    gpt_fast: Path | None = None


def stages_of(work: Work) -> list[Stage]:
    """Return the stages, in order: engines of all shapes, then the narrowest formats' rivals, then what is left."""
    common = {"device": work.device}
    each = {**common, "num_tokens": work.num_tokens}
    stages = [
        _stage("copy", "", common),
        _stage("correctness", "", {**common, "checkpoint": work.checkpoint and str(work.checkpoint)}),
    ]
    pairs = [(shape, mode) for shape in work.shapes for mode in work.modes]
    for shape, mode in pairs:
        what = {"shape": shape, "mode": mode, **each}
        stages.append(_stage("engine", f"{shape} {mode}", {**what, "batches": list(work.batches)}))
    for mode in reversed(work.modes):
        for shape in work.shapes:
            what = {"shape": shape, "mode": mode, **each}
            if work.gpt_fast is not None:
                rival = {**what, "folder": str(work.gpt_fast), "batch": 1}
                stages.append(_stage("gpt-fast", f"{shape} {mode}", rival))
            stages.append(_stage("served", f"{shape} {mode}", {**what, "batches": list(work.batches)}))
    return [stage for stage in stages if stage.kind in work.kinds]


def _stage(kind: str, of: str, arguments: dict[str, Any]) -> Stage:
    return Stage(kind, f"{kind} {of}".strip(), _LIMIT_S[kind], arguments)
