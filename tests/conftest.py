"""For all tests: nothing may leak from a test module, and the embedded model is at hand."""

import gc
import logging
import os
import signal
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import CheckpointError
from common.model_store import EMBEDDED_MODEL, resolve
from tests.support.leaks import held, leaked
from tests.support.side_by_side import SideBySide, is_one_of_several

# Read when torch is first imported: threads that spin would starve the processes that tests start beside them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if is_one_of_several():
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the other cores are the other processes'

PATIENCE_S = 5.0


class FixtureWatch:
    """Notes what fixtures hold that outlive the module that asked for them first.

    A plugin of its own: pytest does not call the hooks of a conftest below its root for session fixtures.
    """

    def __init__(self) -> None:
        self.kept = Counter[str]()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        if fixturedef.scope not in ("session", "package"):
            return (yield)
        before = held()
        value = yield
        self.kept |= held() - before
        return value


FIXTURE_WATCH = pytest.StashKey[FixtureWatch]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIXTURE_WATCH] = watch = FixtureWatch()
    config.pluginmanager.register(watch)
    if is_one_of_several():
        config.pluginmanager.register(SideBySide())


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over all that imports made: it would be most of its work, and a test's time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def nothing_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the module that leaves a non-daemon thread, a child process, an open file, socket or pipe, or a variable."""
    before = held()
    yield
    kept = request.config.stash[FIXTURE_WATCH].kept
    if left := leaked(before | kept, PATIENCE_S):
        pytest.fail("left behind by this module:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(autouse=True)
def usual_logging() -> Iterator[None]:
    """Take back what a command that was run in this process did to the root logger: its stream ends with the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def embedded_model() -> Path:
    """The folder of the embedded model's checkpoint."""
    try:
        return resolve(EMBEDDED_MODEL)
    except CheckpointError as error:
        pytest.fail(f"{error} (`make test` does so by itself)", pytrace=False)


@pytest.fixture
def usual_signals() -> Iterator[dict[int, Any]]:
    """What a program in the foreground does at signals; one that is started in the background may ignore them."""
    usual: dict[int, Any] = {signal.SIGINT: signal.default_int_handler}
    usual |= {signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {kind: signal.signal(kind, handler) for kind, handler in usual.items()}
    yield usual
    for kind, handler in before.items():
        signal.signal(kind, handler)
