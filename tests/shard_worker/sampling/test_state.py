"""A rank's view of a sequence: what it accepts, and how its history grows and rolls back."""

import numpy as np
import pytest

from common.arrays import F32, I32, to_wire
from common.errors import Refused
from shard_worker.sampling.state import SequenceState
from tandem.shard.v1.shard_service_pb2 import SequenceOpen


def ids(*values: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    return np.array(values, np.int32)


def penalised(history: list[int]) -> SequenceState:
    opening = SequenceOpen(repetition_penalty=1.2, prompt_length=2, history=to_wire(history, I32))
    return SequenceState.open(opening)


def test_open_reads_every_field() -> None:
    state = SequenceState.open(
        SequenceOpen(
            seed=(1 << 64) - 1,
            temperature=0.5,
            repetition_penalty=1.5,
            presence_penalty=-0.5,
            frequency_penalty=0.25,
            bias_ids=to_wire([3, 1], I32),
            bias_values=to_wire([0.5, -2], F32),
            prompt_length=3,
            history=to_wire([7, 8, 9, 10], I32),
        )
    )
    params = state.params
    assert (params.seed_bits, params.temperature, params.divisor) == (-1, 0.5, 0.5)
    assert (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) == (1.5, -0.5, 0.25)
    assert params.bias_ids.tolist() == [3, 1] and params.bias_values.tolist() == [0.5, -2]
    assert state.prompt_length == 3 and state.history(4).tolist() == [7, 8, 9, 10]


def test_greedy_divides_by_one() -> None:
    assert SequenceState.open(SequenceOpen(repetition_penalty=1)).params.divisor == 1


def test_write_overwrites_grows_and_cuts() -> None:
    state = penalised([1, 2, 3])
    state.write(3, ids(4, 5, 6, 7))
    assert state.history(7).tolist() == [1, 2, 3, 4, 5, 6, 7]
    state.write(4, ids(9))
    assert state.history(5).tolist() == [1, 2, 3, 4, 9]
    with pytest.raises(Refused, match="5 ids are known"):
        state.history(6)
    for length in range(5, 300):
        state.write(length, ids(length))
    assert state.history(300)[5:].tolist() == list(range(5, 300))


def test_a_gap_is_refused() -> None:
    with pytest.raises(Refused) as caught:
        penalised([1, 2, 3]).write(4, ids(1))
    assert caught.value.reason == "BAD_PLAN"


def test_history_is_not_kept_without_penalties() -> None:
    state = SequenceState.open(SequenceOpen(repetition_penalty=1, temperature=1))
    state.write(1000, ids(1))
    assert state.history(0).tolist() == []


@pytest.mark.parametrize(
    "opening",
    [
        SequenceOpen(repetition_penalty=0),
        SequenceOpen(repetition_penalty=float("nan")),
        SequenceOpen(repetition_penalty=1, temperature=-1),
        SequenceOpen(repetition_penalty=1, temperature=float("inf")),
        SequenceOpen(repetition_penalty=1, presence_penalty=float("inf")),
        SequenceOpen(repetition_penalty=1, frequency_penalty=float("nan")),
        SequenceOpen(repetition_penalty=1, bias_ids=to_wire([1], I32)),
        SequenceOpen(repetition_penalty=1, bias_ids=to_wire([1], I32), bias_values=to_wire([np.inf], F32)),
        SequenceOpen(repetition_penalty=1, history=b"abc"),
    ],
)
def test_nonsense_is_refused(opening: SequenceOpen) -> None:
    with pytest.raises(Refused) as caught:
        SequenceState.open(opening)
    assert caught.value.reason == "BAD_PLAN"
