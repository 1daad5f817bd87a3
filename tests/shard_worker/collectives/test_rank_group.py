"""Which way whole ranks add up, and that the way changes no answer."""

import pytest

from tests.support.greedy import Generation, assert_matches
from tests.support.ranks import rank_group
from tests.support.reference import reference_logits
from tests.support.step_client import StepGroup
from tests.support.tiny_model import TinyModel

PROMPTS = [[1], [5, 6, 7] * 5, list(range(100, 160))]
NUM_TOKENS = 8


def answers_of(model: TinyModel, tp: int, collectives: str, said: str) -> list[Generation]:
    """Return what a group answers that is set to `collectives`, and of which every rank `said` how it adds up."""
    with (
        rank_group(model.folder, tp, collectives=collectives) as ranks,
        StepGroup([rank.address for rank in ranks]) as group,
    ):
        for rank in ranks:
            (line,) = [line for line in rank.log.splitlines() if "collectives: " in line]
            assert line.endswith(f"collectives: {said}")
        return group.driver().generate(PROMPTS, NUM_TOKENS, chunk_tokens=16)


@pytest.mark.parametrize("tp", [2, 3])
def test_shared_memory_by_itself_and_torch_when_asked(tiny_model: TinyModel, tp: int) -> None:
    shared = answers_of(tiny_model, tp, "auto", "shared memory")
    through_torch = answers_of(tiny_model, tp, "torch", "torch.distributed (rank 0: set to torch)")
    for answer, other in zip(shared, through_torch, strict=True):
        assert answer.ids == other.ids
        assert_matches(answer, reference_logits(tiny_model.reference, answer.known).numpy(), 1e-4)
        assert_matches(other, reference_logits(tiny_model.reference, other.known).numpy(), 1e-4)
