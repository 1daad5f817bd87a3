"""Drafts change how fast tokens come, never which: every stream is the one that a gateway without drafts gives.

Whoever drafts, however well, and whatever happens to who does; rows of all kinds share the steps.
"""

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tandem.v1 import inference_service_pb2 as pb
from tests.support.adversary import Adversary, adversaries
from tests.support.answers import Answer, generate_all
from tests.support.draft_stream import draft_process
from tests.support.gateway_process import GatewayProcess, running_gateway
from tests.support.ranks import RankProcess, rank_group
from tests.support.speculation_cases import Answers, Requests, assert_same, ended_requests, plain_requests
from tests.support.tiny_model import TinyModel

AT_ONCE = 3
KILLED_AFTER_S = 1.0


@dataclass(frozen=True)
class Scene:
    """A rank group, and what it answers without drafts."""

    model: Path
    ranks: list[str]
    work: Path
    requests: Requests
    expected: Answers

    @contextmanager
    def gateway(self, **settings: Any) -> Iterator[GatewayProcess]:
        """Run a gateway of its own for the ranks."""
        with running_gateway(self.model, self.ranks, self.work, **settings) as gateway:
            gateway.wait_serving()
            yield gateway

    def check(self, gateway: GatewayProcess) -> pb.SpeculationReport:
        """Ask for everything and compare; returns what drafting did, counts added up."""
        answers = ask(gateway, self.requests)
        for name, answer in answers.items():
            assert_same(answer, self.expected[name], name)
        return total(answers)


def ask(gateway: GatewayProcess, requests: Requests) -> dict[str, Answer]:
    """Return the answers, AT_ONCE requests at a time."""
    names, answers = list(requests), list[Answer]()
    for start in range(0, len(names), AT_ONCE):
        answers += generate_all(gateway.client.stub, [requests[name] for name in names[start : start + AT_ONCE]])
    return dict(zip(names, answers, strict=True))


def total(answers: Answers) -> pb.SpeculationReport:
    """Return the counts of all reports, added up; tokens_per_pass is the largest."""
    reports = [answer.finished.speculation for answer in answers.values()]
    counts = {
        name: sum(getattr(report, name) for report in reports)
        for name in ("rounds", "drafted", "accepted", "ngram_drafted", "ngram_accepted")
    }
    return pb.SpeculationReport(**counts, tokens_per_pass=max(report.tokens_per_pass for report in reports))


@pytest.fixture(scope="module", params=[1, 2], ids=["TP 1", "TP 2"])
def scene(request: pytest.FixtureRequest, tiny_model: TinyModel) -> Iterator[Scene]:
    with (
        rank_group(tiny_model.folder, request.param, kv_cache_tokens=8192) as ranks,
        tempfile.TemporaryDirectory(prefix="tandem-test-") as work,
    ):
        addresses = [rank.address for rank in ranks]
        bare = Scene(tiny_model.folder, addresses, Path(work), {}, {})
        with bare.gateway() as gateway:
            requests = plain_requests()
            expected = ask(gateway, requests)
            requests |= ended_requests(requests, expected)
            expected = ask(gateway, requests)
        assert not any(answer.finished.HasField("speculation") for answer in expected.values())
        yield Scene(tiny_model.folder, addresses, Path(work), requests, expected)


@pytest.fixture(scope="module")
def copy_of_target(tiny_model: TinyModel) -> Iterator[RankProcess]:
    """A draft of the target's own weights, which draws colder than it: nearly always right."""
    with draft_process(
        model=tiny_model.folder, dtype="float32", threads=1, kv_cache_tokens=8192, temperature_factor=0.9
    ) as worker:
        yield worker


def test_ngrams_in_the_gateway(scene: Scene) -> None:
    with scene.gateway(ngram=True) as gateway:
        report = scene.check(gateway)
    print(report)


def test_a_model(scene: Scene, copy_of_target: RankProcess) -> None:
    with scene.gateway(drafts=copy_of_target.address) as gateway:
        report = scene.check(gateway)
        print(gateway.log)
    print(report)


def test_adversaries(scene: Scene) -> None:
    texts = [
        [*request.token_ids.ids, *answer.ids]
        for request, answer in zip(scene.requests.values(), scene.expected.values(), strict=True)
    ]
    with adversaries(texts, 263, 4) as workers:
        with scene.gateway(drafts=",".join(worker.address for worker in workers)) as gateway:
            report = scene.check(gateway)
            print(gateway.log)
        for worker in workers:
            print(worker.tamper.kinds)
    print(report)


def test_killed(scene: Scene) -> None:
    pass
