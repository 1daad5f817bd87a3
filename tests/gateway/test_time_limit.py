"""One timer for many turns ends the turn that is late, and no other."""

import asyncio

import pytest

from gateway.time_limit import TimeLimit

LIMIT_S = 0.05


def test_only_the_late_turn_is_ended() -> None:
    async def turns() -> None:
        limit, loop = TimeLimit(LIMIT_S), asyncio.get_running_loop()
        until_s = loop.time() + 3 * LIMIT_S
        while loop.time() < until_s:  # together far beyond the limit, each far below it
            with limit:
                await asyncio.sleep(0)
        for _ in range(2):
            entered_s = loop.time()
            with pytest.raises(TimeoutError), limit:
                await asyncio.Event().wait()
            assert loop.time() - entered_s >= LIMIT_S
        with limit:
            await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None and task.cancelling() == 0

    asyncio.run(turns())


def test_a_cancelled_turn_is_cancelled_and_not_late() -> None:
    async def turn() -> None:
        with TimeLimit(60):
            await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(turn())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_who_cancels_a_late_turn_is_heard() -> None:
    async def turn() -> None:
        with TimeLimit(LIMIT_S):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()  # as somebody else might, in the same turn of the loop
                raise

    async def main() -> None:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(turn())

    asyncio.run(main())


def test_errors_pass_and_a_closed_limit_leaves_no_timer() -> None:
    async def turns() -> None:
        limit = TimeLimit(LIMIT_S)
        with pytest.raises(ValueError, match="mine"), limit:
            raise ValueError("mine")
        limit.close()
        limit.close()
        await asyncio.sleep(2 * LIMIT_S)
        with limit:  # it may go on all the same
            await asyncio.sleep(0)
        limit.close()

    asyncio.run(turns())
