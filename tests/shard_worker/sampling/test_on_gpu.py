"""An accelerator gives the CPU's noise, lists and choices."""

from functools import partial

import pytest
import torch
from torch import Tensor

from common.arrays import I32, to_wire
from shard_worker.sampling.noise import gumbel_noise
from shard_worker.sampling.records import sample_records, score_records
from shard_worker.sampling.state import SequenceState
from shard_worker.sampling.wire import pack
from tandem.shard.v1.shard_service_pb2 import SequenceOpen, StepResult

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator"),
]


def test_noise_is_the_same() -> None:
    """The two float64 logarithms may differ in their last bit, which float32 hides but once in 10^8 values."""
    seeds, positions = torch.arange(64) - 32, torch.arange(64)
    cpu = gumbel_noise(seeds, positions, 5, 49_152, "cpu")
    gpu = gumbel_noise(seeds, positions, 5, 49_152, "cuda").cpu()
    torch.testing.assert_close(gpu, cpu, rtol=1e-6, atol=1e-9)
    assert int((gpu != cpu).sum()) <= 3


def test_records_are_the_same() -> None:
    raw = torch.randn(6, 5000, generator=torch.Generator().manual_seed(0)).mul(3).to(torch.bfloat16).float()
    opening = SequenceOpen(
        seed=1,
        temperature=1,
        repetition_penalty=1.25,
        presence_penalty=0.5,
        prompt_length=3,
        history=to_wire(range(40), I32),
    )
    states = [SequenceState.open(opening), SequenceState.open(SequenceOpen(repetition_penalty=1))] * 3
    ids = torch.arange(6)
    cpu, gpu = StepResult(), StepResult()
    for result, on_device in ((cpu, raw), (gpu, raw.cuda())):
        pack(sample_records(on_device, states, [40] * 6, 0, 8, 64, 5)[0]).fill(result)
        pack(score_records(partial(rows_of, on_device), ids, 0, 4)).fill(result)
    for name in ("noised_ids", "top_ids", "top_processed", "raw_ids", "raw_logits", "noised_raw"):
        assert getattr(cpu, name) == getattr(gpu, name), name
    for name in ("scored_logits", "scored_raw_ids", "scored_raw_logits"):
        assert getattr(cpu, name) == getattr(gpu, name), name


def rows_of(raw_SV: Tensor, start: int, stop: int) -> Tensor:
    return raw_SV[start:stop]
