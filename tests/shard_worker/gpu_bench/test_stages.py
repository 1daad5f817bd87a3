"""The order of stages, the deadline, and the tables."""

import json
from pathlib import Path

import torch

from shard_worker.checkpoint.known_shapes import KNOWN_SHAPES
from shard_worker.checkpoint.layout import expected_tensors
from shard_worker.gpu_bench.correctness import Subject, check
from shard_worker.gpu_bench.engines import bytes_per_step, quantization_for
from shard_worker.gpu_bench.random_weights import RandomWeights
from shard_worker.gpu_bench.report import all_holds, as_json, as_markdown, lines_of
from shard_worker.gpu_bench.run import Outcome, run_stages
from shard_worker.gpu_bench.stages import Stage, Work, stages_of

CPU = torch.device("cpu")
WORK = Work("cpu", ["a", "b"], ["bf16", "int4"], [1], 200, gpt_fast=Path("/g"))


def test_engines_come_before_rivals_and_narrow_formats_first() -> None:
    names = [stage.name for stage in stages_of(WORK)]
    assert names[:6] == ["copy", "correctness", "engine a bf16", "engine a int4", "engine b bf16", "engine b int4"]
    assert names[6:10] == ["gpt-fast a int4", "served a int4", "gpt-fast b int4", "served b int4"]
    assert len(names) == 14
    assert "gpt-fast" not in {stage.kind for stage in stages_of(Work("cpu", ["a"], ["bf16"], [1], 9))}


def test_nothing_starts_past_the_deadline() -> None:
    told: list[str] = []
    (outcome,) = run_stages([Stage("copy", "copy", 30.0)], 0.5, told.append)
    assert outcome.failure == "no time was left" and told == ["copy: no time was left (0.0 s)"]


def test_tables() -> None:
    copy, engine, rival = (Stage(kind, kind, 1.0) for kind in ("copy", "engine", "gpt-fast"))
    key = {"shape": "a", "mode": "int4", "batch": 1}
    speed = {"bytes_per_step": 3_000_000_000, "step_ms": 2.0, "decode_tokens_per_s": 500.0, "whole_tokens_per_s": 480.0}
    outcomes = [
        Outcome(copy, 1.0, [{"gb_per_s": 3000.0, "device_name": "X", "torch": "2"}]),
        Outcome(engine, 1.0, [{**key, **speed, "drawing": name} for name in ("greedy", "top_k 200, T 0.8")]),
        Outcome(rival, 1.0, [{**key, "whole_tokens_per_s": 240.0}]),
        Outcome(Stage("served", "served a", 1.0), 1.0, failure="exit | code"),
    ]
    line = next(line for line in lines_of(WORK, outcomes) if (line.shape, line.mode) == ("a", "int4"))
    assert (line.mbu, line.ratio, line.served_ratio) == (0.5, 2.0, None)
    text = as_markdown(WORK, outcomes)
    assert "| a | int4 | 1 | 500.0 | 2.000 | 50% | 480.0 |  | 240.0 | 2.00 |  |" in text
    assert "| served a | exit / code |" in text and not all_holds(outcomes)
    assert json.loads(as_json(WORK, outcomes))["lines"][1]["ratio"] == 2.0


def test_random_weights_fit_their_layout() -> None:
    architecture = KNOWN_SHAPES["tiny"]
    for mode in ("bf16", "int8", "int4"):
        quantization = quantization_for(architecture, mode)
        weights = RandomWeights(architecture, quantization, "bfloat16", CPU)
        total = 0
        for name, spec in expected_tensors(architecture, "bfloat16", quantization).items():
            whole = weights.read(name)
            assert (whole.shape, whole.dtype) == (spec.shape, spec.dtype)
            assert torch.equal(torch.cat(list(weights.blocks(name))), whole)
            assert torch.equal(weights.read(name, 0, 1, 3), whole[1:3])
            total += whole.nbytes
        assert bytes_per_step(architecture, quantization, "bfloat16") == total  # tied: the embedding is the head


def test_a_wrong_engine_is_found() -> None:
    """The check itself: weights that change between the CPU's run and the device's must not pass."""
    architecture = KNOWN_SHAPES["tiny"]
    quantization = quantization_for(architecture, "bf16")
    opened: list[RandomWeights] = []

    class Changing(RandomWeights):
        def read(self, name: str, dim: int | None = None, start: int = 0, stop: int | None = None) -> torch.Tensor:
            return super().read(name, dim, start, stop) * (1.0 if len(opened) == 1 else 1.01)

    def source() -> RandomWeights:
        opened.append(Changing(architecture, quantization, "float32", CPU))
        return opened[-1]

    checks = list(check(Subject("tiny", architecture, quantization, source), CPU))
    assert not next(c for c in checks if "logits in float32" in c.what).holds
    right = RandomWeights(architecture, quantization, "float32", CPU)
    assert all(c.holds for c in check(Subject("tiny", architecture, quantization, lambda: right), CPU))
