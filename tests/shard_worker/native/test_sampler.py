"""Native records are PyTorch's: sums, the best few of every kind, and noise wherever it may win."""

import numpy as np
import pytest
import torch
from torch import Tensor

from common.arrays import F32, I32
from common.errors import Refused
from shard_worker.native.library import Runner
from shard_worker.native.sampler import NativeSampler
from shard_worker.sampling.records import PackedRecords, sample_records
from shard_worker.sampling.state import SequenceState
from shard_worker.sampling.wire import pack
from tandem.shard.v1.shard_service_pb2 import SequenceOpen

FIRST = 1000


def state(
    temperature: float = 0.0, seed: int = 1, penalties: tuple[float, float, float] = (1.0, 0.0, 0.0)
) -> SequenceState:
    """Return a sequence of 40 known ids, four of them of its output, one id of them biased."""
    return SequenceState.open(
        SequenceOpen(
            sequence=1,
            seed=seed,
            temperature=temperature,
            repetition_penalty=penalties[0],
            presence_penalty=penalties[1],
            frequency_penalty=penalties[2],
            bias_ids=I32.type(FIRST + 7).tobytes(),
            bias_values=F32.type(2.5).tobytes(),
            prompt_length=36,
            history=np.arange(FIRST, FIRST + 40, dtype="<i4").tobytes(),
        )
    )


def compared(
    runner: Runner, raw: Tensor, states: list[SequenceState], lengths: tuple[int, int, int]
) -> tuple[PackedRecords, PackedRecords]:
    """Return native code's records and PyTorch's, once both have been found to be alike."""
    positions = [20 + index for index in range(len(states))]
    ours, _ = NativeSampler(runner, FIRST)(raw, states, positions, *lengths)
    theirs = pack(sample_records(raw, states, positions, FIRST, *lengths)[0])
    assert ours.fields.keys() == theirs.fields.keys()
    for name, data in theirs.fields.items():
        if name.endswith("ids"):
            assert ours.fields[name] == data, name
        else:
            got, expected = (np.frombuffer(each, F32) for each in (ours.fields[name], data))
            np.testing.assert_allclose(got, expected, rtol=1e-6, atol=4e-6, err_msg=name)
    return ours, theirs


@pytest.mark.parametrize("size", [1, 7, 16, 33, 1000, 49_152])
@pytest.mark.parametrize("lengths", [(1, 0, 0), (8, 64, 5)])
def test_as_pytorch(runner: Runner, size: int, lengths: tuple[int, int, int]) -> None:
    raw = torch.randn(3, size, generator=torch.Generator().manual_seed(size)) * 8
    raw[:, size // 2] = raw[:, -1] = raw.max()  # ties go to the lower index
    states = [SequenceState.open(SequenceOpen(repetition_penalty=1, temperature=t, seed=9)) for t in (0, 1, 0.7)]
    compared(runner, raw, states, lengths)


@pytest.mark.parametrize("spread", [0.01, 1.0, 300.0])
def test_noise_wins_as_in_pytorch(runner: Runner, spread: float) -> None:
    """Flat logits leave the draw to the noise, steep ones to the logits; both to the last bit of what is compared."""
    states = [state(temperature, seed) for seed, temperature in enumerate([0.3, 1.0, 5.0] * 8)]
    raw = torch.randn(len(states), 5000, generator=torch.Generator().manual_seed(3)) * spread
    ours, theirs = compared(runner, raw, states, (4, 8, 2))
    assert ours.fields["noised_scores"] == theirs.fields["noised_scores"]


def test_penalties_and_biases(runner: Runner) -> None:
    raw = torch.randn(4, 300, generator=torch.Generator().manual_seed(1))
    penalties = (1.3, 0.4, 0.2)
    states = [state(), state(0.9), state(penalties=penalties), state(0.8, penalties=penalties)]
    compared(runner, raw, states, (1, 0, 0))


def test_equal_values(runner: Runner) -> None:
    """Of thousands of equal values the lowest ids are listed."""
    raw = torch.zeros(1, 20_000)
    raw[0, 12_345] = 1.0
    ours, _ = compared(runner, raw, [SequenceState.open(SequenceOpen(repetition_penalty=1))], (5, 3, 2))
    assert np.frombuffer(ours.fields["noised_ids"], I32).tolist() == [FIRST + at for at in (12_345, 0, 1, 2, 3)]


def test_what_is_not_finite_stays_with_its_row(runner: Runner) -> None:
    raw = torch.randn(4, 100, generator=torch.Generator().manual_seed(2))
    states = [SequenceState.open(SequenceOpen(repetition_penalty=1, temperature=t, seed=5)) for t in (0, 1, 1, 1)]
    sampler = NativeSampler(runner, FIRST)
    clean, _ = sampler(raw, states, range(4), 3, 2, 2)
    raw[0, 40], raw[1, 99], raw[2] = torch.nan, torch.inf, torch.nan
    ours, _ = sampler(raw, states, range(4), 3, 2, 2)
    sums = np.frombuffer(ours.fields["raw_lse"], F32)
    assert not np.isfinite(sums[:3]).any()
    assert sums[3] == np.frombuffer(clean.fields["raw_lse"], F32)[3]
    ids = np.frombuffer(ours.fields["noised_ids"], I32).reshape(4, 3)
    assert ids[3].tolist() == np.frombuffer(clean.fields["noised_ids"], I32).reshape(4, 3)[3].tolist()
    assert all(len(set(row)) == 3 and min(row) >= FIRST and max(row) < FIRST + 100 for row in ids.tolist())


def test_resolve(runner: Runner) -> None:
    """The whole slice of one position, computed when it is asked for."""
    raw = torch.randn(3, 200, generator=torch.Generator().manual_seed(4))
    states = [state(0.9, seed) for seed in range(3)]
    _, ours = NativeSampler(runner, FIRST)(raw, states, [20, 21, 22], 1, 0, 0)
    _, theirs = sample_records(raw, states, [20, 21, 22], FIRST, 1, 0, 0)
    for name in ("processed", "scores", "raw"):
        assert torch.equal(getattr(ours.resolve(1), name), getattr(theirs.resolve(1), name)), name
    for position in (-1, 3):
        with pytest.raises(Refused):
            ours.resolve(position)
