"""For all tests: nothing may leak from a test module, and the embedded model is at hand."""

import os
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import CheckpointError
from common.model_store import EMBEDDED_MODEL, resolve
from tests.support.leaks import held, leaked

# Read when torch is first imported: threads that spin would starve the processes that tests start beside them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

PATIENCE_S = 5.0
KEPT_BY_FIXTURES = pytest.StashKey[Counter[str]]()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Note what fixtures hold that outlive the module that asked for them first."""
    if fixturedef.scope not in ("session", "package"):
        return (yield)
    before = held()
    value = yield
    request.config.stash.setdefault(KEPT_BY_FIXTURES, Counter()).update(held() - before)
    return value


@pytest.fixture(scope="module", autouse=True)
def nothing_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the module that leaves a non-daemon thread, a child process or an open file, socket or pipe behind."""
    before = held()
    yield
    kept = request.config.stash.get(KEPT_BY_FIXTURES, Counter())
    if left := leaked(before + kept, PATIENCE_S):
        pytest.fail("left behind by this module:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(scope="session")
def embedded_model() -> Path:
    """The folder of the embedded model's checkpoint."""
    try:
        return resolve(EMBEDDED_MODEL)
    except CheckpointError as error:
        pytest.fail(f"{error} (`make test` does so by itself)", pytrace=False)
