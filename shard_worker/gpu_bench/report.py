"""What a run found out, as JSON for programs and as Markdown for people."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from shard_worker.gpu_bench.run import Outcome
from shard_worker.gpu_bench.stages import Work

FORMAT = "tandem-bench-gpu-1"
# The drawing that does what gpt-fast's default does.
_LIKE_GPT_FAST = "top_k 200, T 0.8"


@dataclass(frozen=True)
class Line:
    """One shape, mode and batch; None is what was not measured. `mbu` is of the greedy decode, 1 is all of it."""

    shape: str
    mode: str
    batch: int
    decode_tokens_per_s: float | None
    step_ms: float | None
    mbu: float | None
    whole_tokens_per_s: float | None
    served_tokens_per_s: float | None
    gpt_fast_tokens_per_s: float | None

    @property
    def ratio(self) -> float | None:
        """The engine alone over gpt-fast, by its definition of tokens/s and with its sampling."""
        return _over(self.whole_tokens_per_s, self.gpt_fast_tokens_per_s)

    @property
    def served_ratio(self) -> float | None:
        """Through gRPC, greedy, over gpt-fast."""
        return _over(self.served_tokens_per_s, self.gpt_fast_tokens_per_s)


def lines_of(work: Work, outcomes: Sequence[Outcome]) -> list[Line]:
    """Return the table's lines."""
    found = {kind: [a for o in outcomes if o.stage.kind == kind for a in o.answer] for kind in work.kinds}
    copied = found.get("copy", [])
    gb_per_s = copied[0]["gb_per_s"] if copied else None
    keys = [(shape, mode, batch) for shape in work.shapes for mode in work.modes for batch in work.batches]
    lines = []
    for key in keys:
        greedy = _one(found.get("engine", []), *key, drawing="greedy")
        step_ms = _figure(greedy, "step_ms")
        read_gb_per_s = _over(_figure(greedy, "bytes_per_step"), step_ms and step_ms * 1e6)
        line = Line(
            *key,
            decode_tokens_per_s=_figure(greedy, "decode_tokens_per_s"),
            step_ms=step_ms,
            mbu=_over(read_gb_per_s, gb_per_s),
            whole_tokens_per_s=_figure(
                _one(found.get("engine", []), *key, drawing=_LIKE_GPT_FAST), "whole_tokens_per_s"
            ),
            served_tokens_per_s=_figure(_one(found.get("served", []), *key), "tokens_per_s"),
            gpt_fast_tokens_per_s=_figure(_one(found.get("gpt-fast", []), *key), "whole_tokens_per_s"),
        )
        lines.append(line)
    return lines


def as_json(work: Work, outcomes: Sequence[Outcome]) -> str:
    """Return the whole run as one JSON object."""
    lines = [
        {**asdict(line), "ratio": line.ratio, "served_ratio": line.served_ratio} for line in lines_of(work, outcomes)
    ]
    whole = {"format": FORMAT, "work": asdict(work), "lines": lines, "stages": [asdict(o) for o in outcomes]}
    return json.dumps(whole, indent=2, default=str)


def as_markdown(work: Work, outcomes: Sequence[Outcome]) -> str:
    """Return the tables: speed, correctness, and what failed."""
    parts = [f"{_machine(outcomes)}\n", _speed_table(work, outcomes)]
    checks = [check for o in outcomes if o.stage.kind == "correctness" for check in o.answer]
    if checks:
        rows = [(check["what"], "yes" if check["holds"] else "**NO**", check["figure"]) for check in checks]
        parts.append(_table(("claim", "holds", "figure"), rows))
    failed = [(o.stage.name, o.failure.replace("|", "/")) for o in outcomes if o.failure is not None]
    if failed:
        parts.append(_table(("stage that failed", "why"), failed))
    return "\n".join(parts)


def all_holds(outcomes: Sequence[Outcome]) -> bool:
    """Return whether no stage failed and every check held."""
    checks = [check for o in outcomes if o.stage.kind == "correctness" for check in o.answer]
    return all(o.failure is None for o in outcomes) and all(check["holds"] for check in checks)


def _machine(outcomes: Sequence[Outcome]) -> str:
    for outcome in outcomes:
        if outcome.stage.kind == "copy" and outcome.answer:
            copied = outcome.answer[0]
            return f"{copied['device_name']}, PyTorch {copied['torch']}, copies at {copied['gb_per_s']:,.0f} GB/s"
    return "bandwidth not measured"


def _speed_table(work: Work, outcomes: Sequence[Outcome]) -> str:
    names = ("shape", "weights", "batch", "decode, tok/s", "ms a step", "MBU", "top_k 200, whole, tok/s",
             "gRPC, tok/s", "gpt-fast, tok/s", "engine / gpt-fast", "gRPC / gpt-fast")  # fmt: skip
    rows = [
        (
            line.shape, line.mode, str(line.batch), _cell(line.decode_tokens_per_s, ".1f"), _cell(line.step_ms, ".3f"),
            _cell(line.mbu, ".0%"), _cell(line.whole_tokens_per_s, ".1f"), _cell(line.served_tokens_per_s, ".1f"),
            _cell(line.gpt_fast_tokens_per_s, ".1f"), _cell(line.ratio, ".2f"), _cell(line.served_ratio, ".2f"),
        )
        for line in lines_of(work, outcomes)
    ]  # fmt: skip
    return _table(names, rows)


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    every = [names, ["---"] * len(names), *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in every)


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _one(answers: Sequence[dict[str, Any]], shape: str, mode: str, batch: int, **more: object) -> dict[str, Any] | None:
    key = {"shape": shape, "mode": mode, "batch": batch, **more}
    return next((answer for answer in answers if key.items() <= answer.items()), None)


def _figure(answer: dict[str, Any] | None, name: str) -> float | None:
    return None if answer is None else float(answer[name])


def _over(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None
