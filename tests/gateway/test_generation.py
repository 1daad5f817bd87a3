"""One request between the step loop and its client: nothing is lost, however slowly the client reads."""

import asyncio

import pytest

from common.errors import RequestFailed
from gateway.generation import Delta
from gateway.sampling.logprobs import TokenLogprobs
from gateway.sampling.params import SamplingParams
from gateway.stopping import Finish, FinishReason
from tests.support.fake_loop import make_generation

ENTRY = TokenLogprobs(-0.5, (1,), (-0.5,))


def test_a_slow_reader_gets_everything_in_one_delta() -> None:
    async def run() -> None:
        generation = make_generation([1], 8)
        assert [generation.accept(token_id, ENTRY) for token_id in (4, 5, 6)] == [False] * 3
        assert await generation.take() == Delta("4 5 6 ", [4, 5, 6], [ENTRY] * 3)
        generation.accept(7, ENTRY)
        assert await generation.take() == Delta("7 ", [7], [ENTRY])

    asyncio.run(run())


def test_a_quick_reader_waits_for_each_token() -> None:
    async def run() -> None:
        generation, seen = make_generation([1], 4), []

        async def read() -> None:
            while delta := await generation.take():
                seen.append(delta.token_ids)

        reader = asyncio.create_task(read())
        for token_id in range(4):
            await asyncio.sleep(0.01)
            assert len(seen) == token_id
            assert generation.accept(token_id, None) == (token_id == 3)
        await asyncio.wait_for(reader, 1)
        assert seen == [[0], [1], [2], [3]]
        assert not await generation.take()  # and again: the end stays the end

    asyncio.run(run())


def test_an_error_comes_after_what_was_generated_before() -> None:
    async def run() -> None:
        generation = make_generation([1], 8)
        generation.accept(4, None)
        generation.fail(RequestFailed("not finite"))
        assert (await generation.take()).token_ids == [4]
        with pytest.raises(RequestFailed):
            await generation.take()
        waiting = make_generation([1], 8)
        reader = asyncio.create_task(waiting.take())
        await asyncio.sleep(0)
        waiting.fail(RequestFailed("not finite"))
        with pytest.raises(RequestFailed):
            await asyncio.wait_for(reader, 1)

    asyncio.run(run())


def test_a_stop_token_is_not_returned() -> None:
    async def run() -> None:
        generation = make_generation([1], 8, stop_token_ids=[9])
        assert not generation.accept(4, ENTRY)
        assert generation.accept(9, ENTRY)
        assert await generation.take() == Delta("4 ", [4], [ENTRY])
        assert generation.finish == Finish(FinishReason.STOP_TOKEN, stop_token_id=9)
        assert generation.completion_tokens == 1

    asyncio.run(run())


def test_a_stop_string_across_tokens_cuts_the_text() -> None:
    async def run() -> None:
        generation = make_generation([1], 8, stop_strings=["5 6"])
        assert [generation.accept(token_id, None) for token_id in (4, 5)] == [False, False]
        assert await generation.take() == Delta("4 ", [4, 5])  # "5 " may begin the stop string
        assert generation.accept(6, None)
        assert await generation.take() == Delta("", [6])
        assert generation.finish == Finish(FinishReason.STOP_STRING, stop_string="5 6")

    asyncio.run(run())


def test_text_held_back_is_flushed_at_the_end() -> None:
    async def run() -> None:
        generation = make_generation([1], 2, stop_strings=["5 6 7"])
        assert [generation.accept(token_id, None) for token_id in (5, 6)] == [False, True]
        assert await generation.take() == Delta("5 6 ", [5, 6])
        assert generation.finish == Finish(FinishReason.LENGTH)

    asyncio.run(run())


def test_fallbacks_ask_for_longer_lists() -> None:
    async def run() -> None:
        generation = make_generation([1], 8, SamplingParams(temperature=1.0, top_p=0.9))
        before = generation.num_top_wanted
        generation.whole_row_fallbacks += 1
        assert generation.num_top_wanted > before

    asyncio.run(run())
