"""Many calls at once, a bounded number of them, and their answers in the order of the questions."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import grpc
from google.rpc import error_details_pb2

from common.status import read_status

MAX_WAITS = 60

Question = TypeVar("Question")
Answer = TypeVar("Answer")


async def in_order(
    questions: Sequence[Question],
    ask: Callable[[Question], Awaitable[Answer]],
    concurrency: int,
    progress: Callable[[int], None],
) -> list[Answer]:
    """Return `ask(question)` for each question, `concurrency` of them running at once; `progress(1)` after each.

    The first error cancels all others and is raised as it is. A gateway that says when to try again, being full or
    without its ranks, is asked again then, at most MAX_WAITS times a question.
    """
    answers: dict[int, Answer] = {}
    numbered = iter(enumerate(questions))

    async def worker() -> None:
        for index, question in numbered:
            answers[index] = await _patiently(question, ask)
            progress(1)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(questions))):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [answers[index] for index in range(len(questions))]


async def _patiently(question: Question, ask: Callable[[Question], Awaitable[Answer]]) -> Answer:
    for _ in range(MAX_WAITS):
        try:
            return await ask(question)
        except grpc.aio.AioRpcError as error:
            if (delay_s := _retry_delay_s(error)) is None:
                raise
        await asyncio.sleep(delay_s)
    return await ask(question)


def _retry_delay_s(error: grpc.aio.AioRpcError) -> float | None:
    """Return how long the server says to wait, or None where it says nothing."""
    status = read_status(error)
    for detail in status.details if status else ():
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            return float(retry.retry_delay.ToMilliseconds()) / 1000
    return None
