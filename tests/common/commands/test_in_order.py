"""Bounded, in order, patient with a full server, and over at the first error."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import pytest

from common.commands.in_order import in_order
from common.errors import InvalidRequest, Overloaded, TandemError, Unavailable
from common.status import DETAILS_KEY, to_status


def failure(error: TandemError) -> grpc.aio.AioRpcError:
    code, status = to_status(error)
    trailers = grpc.aio.Metadata((DETAILS_KEY, status.SerializeToString()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, status.message)


def ask_all(questions: list[int], ask: Callable[[int], Awaitable[int]], concurrency: int) -> tuple[list[int], int]:
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count

    return asyncio.run(in_order(questions, ask, concurrency, progress)), done


def test_answers_come_in_order_and_a_bounded_number_at_once() -> None:
    running, most = 0, 0

    async def ask(question: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(question % 5):
            await asyncio.sleep(0)
        running -= 1
        return question * question

    answers, done = ask_all(list(range(20)), ask, 3)
    assert answers == [number * number for number in range(20)]
    assert (most, done) == (3, 20)
    assert ask_all([], ask, 3) == ([], 0)


def test_a_full_server_is_asked_again() -> None:
    tries: list[int] = []

    async def ask(question: int) -> int:
        tries.append(question)
        if tries.count(question) < 3:
            raise failure(errors[question])
        return question

    errors = {1: Overloaded("full", retry_after_s=0.001), 2: Unavailable("no ranks", retry_after_s=0.001)}

    assert ask_all([1, 2], ask, 2) == ([1, 2], 2)
    assert len(tries) == 6


def test_the_first_error_ends_it() -> None:
    cancelled: list[int] = []

    async def ask(question: int) -> int:
        if question == 1:
            await asyncio.sleep(0)
            raise failure(InvalidRequest("text", "too long"))
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(question)
            raise
        return question

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        ask_all([0, 1, 2, 3, 4], ask, 3)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert sorted(cancelled) == [0, 2]
