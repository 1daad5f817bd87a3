"""The supervisor with stand-in children: all of them, again, or none."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from common.supervisor import ChildEnded, Stage, Stopped, supervised
from common.supervisor_child import ChildCommand

OBEDIENT = "import signal, sys, time; signal.signal(15, lambda *_: (print('bye'), sys.exit(0))); print('up')"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up')"
WAIT = "; sys = __import__('sys'); sys.stdout.flush(); time.sleep(60)"


def child(name: str, code: str) -> ChildCommand:
    return ChildCommand(name, (sys.executable, "-c", code))


def stages(rank: str, gateway: str, stop_budget_s: float = 5.0) -> list[Stage]:
    return [
        Stage([child("rank 0", rank), child("rank 1", rank)], stop_budget_s),
        Stage([child("gateway", gateway)], stop_budget_s),
    ]


async def until_up(capfd: pytest.CaptureFixture[str], count: int, seen: list[str]) -> None:
    while sum(line.endswith("] up") for line in seen) < count:
        await asyncio.sleep(0.02)
        seen += capfd.readouterr().err.splitlines()


def test_output_is_passed_on_and_the_gateway_stops_first(capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[str] = []

    async def run() -> list[int]:
        async with supervised(stages(OBEDIENT + WAIT, OBEDIENT + WAIT)) as supervisor:
            await supervisor.while_running(until_up(capfd, 3, seen))
            return [child.pid for child in supervisor.children]

    pids = asyncio.run(run())
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "[gateway] bye"
    assert sorted(lines[1:]) == ["[rank 0] bye", "[rank 1] bye"]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_an_unexpected_end_is_named_and_ends_the_others(capfd: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        failing = "print('no newline', end=''); raise SystemExit(7)"
        async with supervised(stages(OBEDIENT + WAIT, failing)) as supervisor:
            await supervisor.while_running(asyncio.sleep(30))

    with pytest.raises(ChildEnded, match="gateway ended unexpectedly, exit code 7"):
        asyncio.run(run())
    assert "[gateway] no newline\n" in capfd.readouterr().err


def test_a_killed_child_is_named_by_its_signal() -> None:
    async def run() -> None:
        async with supervised(stages("import time; time.sleep(60)", "import time; time.sleep(60)")) as supervisor:
            os.kill(supervisor.children[1].pid, signal.SIGKILL)
            await supervisor.while_running(asyncio.sleep(30))

    with pytest.raises(ChildEnded, match="rank 1 ended unexpectedly, killed by signal 9"):
        asyncio.run(run())


def test_a_child_that_ignores_sigterm_is_killed_after_its_budget(capfd: pytest.CaptureFixture[str]) -> None:
    async def run() -> float:
        async with supervised(stages(STUBBORN + WAIT, STUBBORN + WAIT, stop_budget_s=0.3)) as supervisor:
            await supervisor.while_running(until_up(capfd, 3, []))
            start_s = time.monotonic()
        return time.monotonic() - start_s

    assert 0.5 < asyncio.run(run()) < 5  # two stages, one after the other


def test_signals_stop_and_a_second_one_kills(capfd: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        async with supervised(stages(STUBBORN + WAIT, STUBBORN + WAIT, stop_budget_s=60)) as supervisor:
            await supervisor.while_running(until_up(capfd, 3, []))
            loop.call_later(0.1, os.kill, os.getpid(), signal.SIGINT)
            loop.call_later(0.4, os.kill, os.getpid(), signal.SIGINT)
            await supervisor.while_running(asyncio.sleep(30))

    start_s = time.monotonic()
    with pytest.raises(Stopped):
        asyncio.run(run())
    assert time.monotonic() - start_s < 10


def test_a_stage_is_started_again_as_a_whole(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its other children end with the one that died, what they left is gone, and other stages notice nothing."""
    left = tmp_path / "rendezvous"
    starting = f"assert not __import__('os').path.exists({str(left)!r}); "
    ranks = [child("rank 0", starting + OBEDIENT + WAIT), child("rank 1", starting + OBEDIENT + WAIT)]
    kept = Stage([child("gateway", OBEDIENT + WAIT)], 5.0)
    seen: list[str] = []

    async def run() -> tuple[list[int], list[int]]:
        async with supervised([Stage(ranks, 5.0, restarts=True, leftovers=[left]), kept]) as supervisor:
            await supervisor.while_running(until_up(capfd, 3, seen))
            first = [process.pid for process in supervisor.children]
            left.write_text("of the first formation")
            os.kill(first[1], signal.SIGKILL)
            await supervisor.while_running(until_up(capfd, 5, seen), restarting=True)
            return first, [process.pid for process in supervisor.children]

    first, second = asyncio.run(run())
    assert first[2] == second[2] and not set(first[:2]) & set(second[:2])
    assert "[rank 0] bye" in seen


def test_what_keeps_ending_is_given_up(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("common.supervisor.RESTART_PAUSE_S", 0.0)

    async def run() -> None:
        failing = Stage([child("rank 0", "raise SystemExit(3)")], 5.0, restarts=True)
        async with supervised([failing]) as supervisor:
            await supervisor.while_running(asyncio.sleep(60), restarting=True)

    with pytest.raises(ChildEnded, match="rank 0 ended unexpectedly, exit code 3"):
        asyncio.run(run())


def test_a_signal_stops_what_is_being_started_again(capfd: pytest.CaptureFixture[str]) -> None:
    async def run() -> list[int]:
        stage = Stage([child("rank 0", OBEDIENT + WAIT)], 5.0, restarts=True)
        async with supervised([stage]) as supervisor:
            await supervisor.while_running(until_up(capfd, 1, []))
            os.kill(supervisor.children[0].pid, signal.SIGKILL)
            asyncio.get_running_loop().call_later(0.3, os.kill, os.getpid(), signal.SIGINT)
            with pytest.raises(Stopped):
                await supervisor.while_running(asyncio.sleep(30), restarting=True)
        return [process.pid for process in supervisor.children]

    for pid in asyncio.run(run()):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_work_is_returned_and_its_errors_are_raised() -> None:
    async def answer() -> int:
        return 42

    async def fail() -> None:
        raise ValueError("no")

    async def run() -> int:
        async with supervised([Stage([child("rank 0", "import time; time.sleep(60)")], 5)]) as supervisor:
            with pytest.raises(ValueError, match="no"):
                await supervisor.while_running(fail())
            return await supervisor.while_running(answer())

    assert asyncio.run(run()) == 42


def test_a_command_that_cannot_start_leaves_nothing_behind() -> None:
    async def run() -> None:
        sleeper = child("rank 0", "import time; time.sleep(60)")
        nonsense = ChildCommand("gateway", ("/nonexistent/program",))
        async with supervised([Stage([sleeper], 5), Stage([nonsense], 5)]):
            raise AssertionError("the body must not run")

    with pytest.raises(FileNotFoundError):
        asyncio.run(run())
