"""Clusters that several tests share: each is started once, and a failing test shows its log."""

import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, running_cluster
from tests.support.tiny_model import TinyModel, TinyShape, make_tiny_model

LOG_TAIL_CHARS = 20_000


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyModel]:
    """A tiny random model with room for long answers; the same in every run."""
    folder = tmp_path_factory.mktemp("tiny")
    yield make_tiny_model(folder, TinyShape(context_length=4096))
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def tiny_cluster(tiny_model: TinyModel) -> Iterator[Cluster]:
    """The tiny model behind one rank, default settings."""
    with running_cluster(model=tiny_model.folder, dtype="float32", kv_cache_tokens=16384) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def smollm_cluster(embedded_model: Path) -> Iterator[Cluster]:
    """The embedded model behind one rank on all cores, default settings."""
    with running_cluster(model=embedded_model, dtype="float32", kv_cache_tokens=16384, threads=None) as cluster:
        yield cluster


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the logs of the clusters that a failing test used to its report."""
    report = yield
    if report.failed and report.when != "teardown":  # the cluster may be gone by then
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Cluster):
                report.sections.append(("log of the cluster", value.log[-LOG_TAIL_CHARS:]))
    return report
