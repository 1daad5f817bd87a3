"""The engine: how a prompt is cut into rows and who else is in the batch changes nothing."""

import random
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from common.arrays import F32, U32, from_wire, to_wire
from common.errors import Refused
from shard_worker.sampling.noise import gumbel_noise
from tandem.shard.v1 import shard_service_pb2 as pb
from tests.support.greedy import Generation
from tests.support.local_ranks import LocalRanks
from tests.support.plans import PlanRow, greedy_open, make_plan, merged_greedy, merged_rows, merged_scores
from tests.support.reference import reference_logits
from tests.support.tiny_model import TinyModel

BLOCK_SIZE = 16
PROMPT = random.Random(0).choices(range(256), k=600)
SHORT = PROMPT[:37]


@pytest.fixture(scope="module")
def ranks(tiny_model: TinyModel) -> Iterator[LocalRanks]:
    """One rank inside this process, 128 blocks."""
    with LocalRanks(tiny_model.folder, kv_cache_tokens=128 * BLOCK_SIZE, max_step_tokens=1024) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_open(ranks: LocalRanks) -> None:
    """Each test begins as a gateway that has just attached."""
    ranks.driver()


def row_logits(ranks: LocalRanks, rows: Sequence[PlanRow], opens: Sequence[int] = ()) -> list[np.ndarray]:
    """Run rows that are sampled at one position each; return the whole vocabulary's logits there."""
    ranks.run(make_plan(rows, [greedy_open(sequence) for sequence in opens]))
    return [merged_rows(ranks.resolve(position)) for position in range(len(rows))]


def assert_same(first: Sequence[Generation], second: Sequence[Generation]) -> None:
    for one, other in zip(first, second, strict=True):
        assert one.ids == other.ids
        assert one.first_row is not None and other.first_row is not None
        np.testing.assert_allclose(one.first_row, other.first_row, atol=1e-5, rtol=0)
        np.testing.assert_allclose(one.prompt_scores, other.prompt_scores, atol=1e-5, rtol=0)
        for mine, others in zip(one.candidates, other.candidates, strict=True):
            both = sorted(mine.keys() & others.keys())
            assert one.ids and len(both) >= 6
            np.testing.assert_allclose([mine[i] for i in both], [others[i] for i in both], atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def in_one_chunk(ranks: LocalRanks) -> list[Generation]:
    """The long prompt's answer when nothing is cut."""
    return ranks.driver().generate([PROMPT], 12, chunk_tokens=1024)


@pytest.mark.parametrize("chunk_tokens", [1, 16, 64, 512])
def test_chunks_change_nothing(ranks: LocalRanks, in_one_chunk: list[Generation], chunk_tokens: int) -> None:
    assert_same(ranks.driver().generate([PROMPT], 12, chunk_tokens), in_one_chunk)


def test_other_rows_change_nothing(ranks: LocalRanks) -> None:
    prompts = [PROMPT[at : at + size] for at, size in ((0, 1), (50, 16), (99, 17), (5, 33), (200, 90), (300, 33))]
    together = ranks.driver().generate(prompts, 12, chunk_tokens=20)
    alone = [ranks.driver().generate([prompt], 12)[0] for prompt in prompts]
    assert_same(together, alone)


def test_scores_are_log_softmax(tiny_model: TinyModel, ranks: LocalRanks) -> None:
    row = PlanRow(1, 0, SHORT, [4, 2, 9], scored_ids=[*SHORT[1:], 200])
    scores = merged_scores(ranks.run(make_plan([row], [greedy_open(1)])))
    expected = reference_logits(tiny_model.reference, SHORT).log_softmax(dim=1)
    expected = expected[torch.arange(len(SHORT)), torch.tensor([*SHORT[1:], 200])]
    np.testing.assert_allclose(scores, expected.numpy(), atol=1e-4, rtol=0)


def test_every_position_of_a_row_can_be_sampled(tiny_model: TinyModel, ranks: LocalRanks) -> None:
    """What verification needs: a row of 1 + k ids that is sampled at all of them."""
    first = PlanRow(1, 0, SHORT[:30], [4, 2, 9])
    ranks.run(make_plan([first], [greedy_open(1)]))
    results = ranks.run(make_plan([PlanRow(1, 30, SHORT[30:], [4, 2, 9], sampled=7)]))
    expected = reference_logits(tiny_model.reference, SHORT)[30:].numpy()
    assert merged_greedy(results) == expected.argmax(axis=1).tolist()
    rows = np.stack([merged_rows(ranks.resolve(position)) for position in range(7)])
    np.testing.assert_allclose(rows, expected, atol=1e-4, rtol=0)


def test_what_lay_beyond_the_base_is_dead(ranks: LocalRanks) -> None:
    clean = row_logits(ranks, [PlanRow(1, 0, SHORT, [0, 1, 2], 1)], opens=[1])[0]
    ranks.run(make_plan([PlanRow(2, 0, SHORT[:20], [3, 4, 5, 6])], [greedy_open(2)]))
    ranks.run(make_plan([PlanRow(2, 20, PROMPT[100:140], [3, 4, 5, 6])]))  # garbage in 20..59
    after = row_logits(ranks, [PlanRow(2, 20, SHORT[20:], [3, 4, 5], 1)])[0]
    np.testing.assert_allclose(after, clean, atol=1e-5, rtol=0)
    earlier = row_logits(ranks, [PlanRow(2, 9, SHORT[9:], [3, 4, 5], 1)])[0]
    np.testing.assert_allclose(earlier, clean, atol=1e-5, rtol=0)


def test_sequences_may_share_prefix_blocks(ranks: LocalRanks) -> None:
    suffixes = [PROMPT[100:105], PROMPT[200:209]]
    prefix = PROMPT[: 2 * BLOCK_SIZE]
    alone = [
        row_logits(ranks, [PlanRow(s, 0, prefix + suffix, [10 * s, 10 * s + 1, 10 * s + 2], 1)], opens=[s])[0]
        for s, suffix in enumerate(suffixes, start=1)
    ]
    ranks.run(make_plan([PlanRow(3, 0, prefix, [40, 41])], [greedy_open(3)]))
    rows = [PlanRow(s, len(prefix), suffix, [40, 41, 40 + s], 1) for s, suffix in enumerate(suffixes, start=4)]
    for shared, expected in zip(row_logits(ranks, rows, opens=[4, 5]), alone, strict=True):
        np.testing.assert_allclose(shared, expected, atol=1e-5, rtol=0)


def test_attention_paths_agree(tiny_model: TinyModel, ranks: LocalRanks) -> None:
    prompts = [PROMPT[:3], PROMPT[20:70], PROMPT[100:117]]
    with LocalRanks(tiny_model.folder, attention="reference") as reference:
        assert_same(ranks.driver().generate(prompts, 8, chunk_tokens=16), reference.driver().generate(prompts, 8, 16))


def test_noise_is_drawn_for_the_position_after_the_row(ranks: LocalRanks) -> None:
    seed, temperature = 2**63 + 5, 0.5
    opening = pb.SequenceOpen(sequence=1, seed=seed, temperature=temperature, repetition_penalty=1.0)
    ranks.run(make_plan([PlanRow(1, 0, SHORT, [0, 1, 2], sampled=2)], [opening]))
    for position in range(2):
        (resolved,) = ranks.resolve(position)
        raw, processed, scores = (
            from_wire(getattr(resolved, name), F32, (-1,), name) for name in ("raw", "processed", "scores")
        )
        drawn_at = len(SHORT) - 1 + position
        noise = gumbel_noise(torch.tensor([seed - 2**64]), torch.tensor([drawn_at]), 0, len(raw), "cpu")[0]
        np.testing.assert_array_equal(processed, raw / np.float32(temperature))
        np.testing.assert_array_equal(scores, (torch.from_numpy(processed.copy()) + noise).numpy())


def test_closed_and_forgotten_sequences_can_be_opened_again(ranks: LocalRanks) -> None:
    row = PlanRow(1, 0, SHORT, [0, 1, 2], 1)
    first = merged_greedy(ranks.run(make_plan([row], [greedy_open(1)])))
    assert merged_greedy(ranks.run(make_plan([row], [greedy_open(1)], closes=[1, 77]))) == first
    ranks.engines[0].reset()
    assert merged_greedy(ranks.run(make_plan([row], [greedy_open(1)]))) == first


def test_timings_are_told(ranks: LocalRanks) -> None:
    result = ranks.run(make_plan([PlanRow(1, 0, SHORT, [0, 1, 2], 1)], [greedy_open(1)]))[0]
    assert result.compute_ns > 0 and result.encode_ns > 0 and result.collective_ns == 0


def test_a_plan_that_only_closes_runs_nothing(ranks: LocalRanks) -> None:
    row = PlanRow(1, 0, SHORT, blocks=range(4))
    ranks.run(make_plan([row], [greedy_open(1)]))
    (result,) = ranks.run(pb.Plan(closes=to_wire([1], U32)))
    assert not result.noised_ids and not result.raw_lse
    with pytest.raises(Refused, match="sampled nothing"):
        ranks.resolve(0)
    with pytest.raises(Refused, match="not opened"):
        ranks.run(make_plan([row]))
