"""Frames of several tokens: streams end within one as they would between two; nothing that lies behind counts."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from common.arrays import F32, I32, U32, from_wire, to_wire
from common.errors import RequestFailed
from gateway.generation import Generation
from gateway.sampling.params import SamplingParams
from gateway.speculation.speculator import Speculator
from gateway.step_loop import StepLoop
from gateway.stopping import FinishReason
from tandem.shard.v1 import shard_service_pb2 as pb
from tests.support.fake_loop import counting, make_generation, read_ids, run_all, running_loop, until
from tests.support.fake_rank import POISON, FakeRank


def continued(rank: FakeRank) -> list[int]:
    """By how much each plan's first row was continued."""
    return [from_wire(plan.row_continued or bytes(4), U32, (-1,), "row_continued")[0].item() for plan in rank.plans]


def run(
    test: Callable[[FakeRank, StepLoop], Coroutine[Any, Any, None]], max_tokens_per_frame: int = 4, **settings: Any
) -> None:
    settings["max_tokens_per_frame"] = max_tokens_per_frame

    async def with_loop() -> None:
        async with FakeRank() as rank, running_loop([rank], **settings) as (loop, _):
            await test(rank, loop)
            assert loop._scheduler is not None
            await until(lambda: loop._scheduler is not None and loop._scheduler.idle)
            loop._scheduler.check_books()

    asyncio.run(with_loop())


@pytest.mark.parametrize(("most", "lengths"), [(1, [0] * 12), (4, [0, 0, 3, 3, 1]), (12, [0, 0, 9])])
def test_as_many_tokens_as_are_left(most: int, lengths: list[int]) -> None:
    """The first token is waited for, and the second tells how long a step takes."""

    async def test(rank: FakeRank, loop: StepLoop) -> None:
        generation = make_generation([14], 12)
        assert await run_all(loop, generation) == [counting(14, 12)]
        assert continued(rank) == lengths
        timings = generation.waterfall.timings()
        assert (timings.steps, timings.frames) == (12, len(lengths))
        assert timings.ranks[0].compute_ns == 2 * len(lengths)

    run(test, max_tokens_per_frame=most)


@pytest.mark.parametrize("last", range(4, 12))
def test_stops_in_every_place_of_a_frame(last: int) -> None:
    async def test(rank: FakeRank, loop: StepLoop) -> None:
        by_token = make_generation([14], 30, stop_token_ids=[14 + last])
        assert await run_all(loop, by_token) == [counting(14, last - 1)]
        assert by_token.finish is not None and by_token.finish.reason is FinishReason.STOP_TOKEN
        by_text = make_generation([14], 30, stop_strings=[f"{14 + last} "])
        assert await run_all(loop, by_text) == [counting(14, last)]
        assert by_text.finish is not None and by_text.finish.reason is FinishReason.STOP_STRING
        assert by_text.completion_tokens == last

    run(test)


@pytest.mark.parametrize("most", [1, 4, 12])
def test_what_was_dropped_is_not_reused(most: int) -> None:
    """Blocks of 4: a stream that stops within a frame has listed only blocks of its own ids."""

    async def test(rank: FakeRank, loop: StepLoop) -> None:
        await run_all(loop, make_generation([14], 30, stop_token_ids=[24]))  # fed: 14 to 23, and what is dropped
        again = make_generation([*range(14, 31)], 2)
        assert await run_all(loop, again) == [counting(30, 2)]
        assert again.sequence.cached_prompt_tokens == 8

    run(test, max_tokens_per_frame=most)


def test_a_token_that_was_not_fed_ends_the_frame() -> None:
    """top_k = 1 cuts the best noised token: only the whole row tells that, and what lies behind it is dropped."""

    async def test(rank: FakeRank, loop: StepLoop) -> None:
        async def tamper(answer: pb.RunResponse) -> pb.RunResponse:
            result = answer.result
            if result.noised_ids:
                ids = from_wire(result.noised_ids, I32, (-1, 2), "noised_ids").copy()
                scores = from_wire(result.noised_scores, F32, (-1, 2), "noised_scores").copy()
                # After 20 the noise prefers 3; top_k = 1 then draws the second.
                changed = ids[:, 0] == 21
                ids[changed, 1], ids[changed, 0] = 21, 3
                scores[changed, 0] += 1
                processed = from_wire(result.noised_processed, F32, (-1, 2), "noised_processed").copy()
                processed[changed] = processed[changed][:, ::-1]
                result.noised_ids, result.noised_scores = to_wire(ids, I32), to_wire(scores, F32)
                result.noised_processed = to_wire(processed, F32)
            return answer

        rank.tamper = tamper
        params = SamplingParams(temperature=1.0, top_k=1, seed=1)
        generation = make_generation([14], 12, params)
        assert await run_all(loop, generation) == [counting(14, 12)]
        # 15; 16; 17 to 20; 21, which was not fed; fewer from then on, for the next miss is to be expected.
        assert generation.sequence.confirmation < 1
        assert generation.waterfall.timings().steps > 12

    run(test)


def test_numbers_that_are_not_finite_within_a_frame() -> None:
    async def test(rank: FakeRank, loop: StepLoop) -> None:
        bad, good = make_generation([POISON - 6], 20), make_generation([20], 12)
        loop.submit(bad)
        assert await run_all(loop, good) == [counting(20, 12)]
        with pytest.raises(RequestFailed):
            await read_ids(bad)
        assert bad.completion_tokens == 6
        loop.cancel(bad)

    run(test)


def test_a_cancelled_stream_leaves_a_frame_to_the_others() -> None:
    async def test(rank: FakeRank, loop: StepLoop) -> None:
        gone, stays = make_generation([1], 40), make_generation([14], 24)
        cancelled = False

        async def tamper(answer: pb.RunResponse) -> pb.RunResponse:
            nonlocal cancelled
            if rank.plans and continued(rank)[-1] and not cancelled:
                cancelled = True
                loop.cancel(gone)
            return answer

        rank.tamper = tamper
        loop.submit(gone)
        assert await run_all(loop, stays) == [counting(14, 24)]
        assert cancelled

    run(test)


def test_nothing_is_continued_while_somebody_waits() -> None:
    async def test(rank: FakeRank, loop: StepLoop) -> None:
        await run_all(loop, make_generation([14], 4))
        rank.plans.clear()
        first, second = make_generation([14], 12), make_generation([20], 12)
        assert await run_all(loop, first, second) == [counting(14, 12), counting(20, 12)]
        lengths = continued(rank)
        assert lengths[:12] == [0] * 12 and max(lengths[12:]) == 3

    run(test, max_running=1)


def test_continued_tokens_are_no_drafts() -> None:
    """A request that may speculate but does not: each token had a pass of its own, and none was drafted."""

    async def test(rank: FakeRank, loop: StepLoop) -> None:
        speculator = loop._speculator
        assert speculator is None
        loop._speculator = Speculator(None, False, 4)
        generation = make_generation([14], 12)
        speculating = Generation(
            generation.sequence, generation.params, generation.stop, generation._text, generation.waterfall, 4
        )
        flags: list[bool] = []
        loop.submit(speculating)
        while delta := await speculating.take():
            flags += delta.is_draft
        loop.cancel(speculating)
        assert max(continued(rank)) == 3 and flags == [False] * 12
        assert speculating.speculation is not None
        report = speculating.speculation.report()
        assert (report.rounds, report.drafted, report.accepted, report.tokens_per_pass) == (0, 0, 0, 1.0)

    run(test)


def test_many_streams_over_two_ranks() -> None:
    async def test() -> None:
        async with (
            FakeRank(0, 2) as one,
            FakeRank(1, 2) as other,
            running_loop([one, other], max_tokens_per_frame=4) as (loop, _),
        ):
            streams = [make_generation([14 + index], 6 + 4 * (index // 2)) for index in range(6)]
            answers = await run_all(loop, *streams)
            assert answers == [counting(14 + index, 6 + 4 * (index // 2)) for index in range(6)]
            assert max(continued(one)) == 3 and continued(one) == continued(other)

    asyncio.run(test())
