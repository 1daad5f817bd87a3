"""Drafts change how fast tokens come, never which: every stream is the one that a gateway without drafts gives.

Whoever drafts, however well, and whatever happens to who does; rows of all kinds share the steps.
"""

import itertools
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tandem.v1 import inference_service_pb2 as pb
from tandem.v1.sampling_pb2 import SamplingParams
from tests.support.adversary import NUM_OF_KIND, Adversary, hosted
from tests.support.answers import Answer, generate_all, text_request
from tests.support.draft_stream import draft_process
from tests.support.gateway_process import GatewayProcess, running_gateway
from tests.support.ranks import RankProcess, rank_group
from tests.support.speculation_cases import Answers, Requests, assert_same, ended_requests, plain_requests
from tests.support.tiny_model import TinyModel, TinyShape

AT_ONCE = 9
FEW = 3  # a larger batch drafts only what all its rows gain by
LENGTHS = [("adaptive", FEW), ("fixed", AT_ONCE)]
KILLED_AFTER_S = 1.0
KILLING_TIMEOUT_S = 120.0
VOCABULARY_SIZE = TinyShape().vocabulary_size


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

    def check(self, gateway: GatewayProcess, at_once: int = AT_ONCE) -> pb.SpeculationReport:
        """Ask for everything and compare; returns what drafting did, counts added up."""
        answers = ask(gateway, self.requests, at_once)
        for name, answer in answers.items():
            assert_same(answer, self.expected[name], name)
        return total(answers)


def ask(gateway: GatewayProcess, requests: Requests, at_once: int = AT_ONCE) -> dict[str, Answer]:
    """Return the answers, `at_once` requests at a time."""
    names, answers = list(requests), list[Answer]()
    for start in range(0, len(names), at_once):
        answers += generate_all(gateway.client.stub, [requests[name] for name in names[start : start + at_once]])
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
        rank_group(tiny_model.folder, request.param, kv_cache_tokens=8192, module="tests.support.slow_rank") as ranks,
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
def colder_copy(tiny_model: TinyModel) -> Iterator[RankProcess]:
    """A draft of the target's own weights, which draws colder than it: nearly always right."""
    with draft_process(
        model=tiny_model.folder, dtype="float32", threads=1, kv_cache_tokens=8192, temperature_factor=0.9
    ) as worker:
        yield worker


@pytest.mark.parametrize(("draft_length", "at_once"), LENGTHS)
def test_ngrams_in_the_gateway(scene: Scene, draft_length: str, at_once: int) -> None:
    with scene.gateway(ngram=True, draft_length=draft_length) as gateway:
        report = scene.check(gateway, at_once)
    assert 0 < report.accepted == report.ngram_accepted < report.drafted == report.ngram_drafted


@pytest.mark.parametrize(("draft_length", "at_once"), LENGTHS)
def test_a_model(scene: Scene, colder_copy: RankProcess, draft_length: str, at_once: int) -> None:
    with scene.gateway(drafts=colder_copy.address, draft_length=draft_length) as gateway:
        report = scene.check(gateway, at_once)
    assert 0 < report.rounds <= report.accepted < report.drafted and report.tokens_per_pass > 2
    assert report.ngram_drafted == 0


def test_adversaries(scene: Scene) -> None:
    texts = [[*request.token_ids.ids, *scene.expected[name].ids] for name, request in scene.requests.items()]
    adversary = Adversary(texts, VOCABULARY_SIZE)
    with hosted(adversary, 4) as addresses, scene.gateway(drafts=",".join(addresses)) as gateway:
        report = scene.check(gateway, FEW)
    assert set(adversary.sent) == set(NUM_OF_KIND), "some kinds were not tried"
    assert 0 < report.accepted < report.drafted and report.tokens_per_pass > 1


def test_a_worker_killed_every_second(scene: Scene) -> None:
    """It drafts with n-grams, for that starts quickly."""
    address = f"unix:{scene.work}/draft.sock"
    accepted, done = 0, threading.Event()
    with ThreadPoolExecutor(1) as threads, scene.gateway(drafts=address) as gateway:
        kills = threads.submit(kill_every_second, address, scene.work / "draft.log", done)
        deadline_s = time.monotonic() + KILLING_TIMEOUT_S
        try:
            while gateway.log.count("is there") < 3 or not accepted:
                assert time.monotonic() < deadline_s and not kills.done(), "the worker was hardly ever used"
                accepted += scene.check(gateway, FEW).accepted
        finally:
            done.set()
        assert kills.result() >= 2


def kill_every_second(address: str, log_file: Path, done: threading.Event) -> int:
    """Start a draft worker, kill it a second after it serves, and so on; returns how often."""
    for kills in itertools.count():
        worker = RankProcess(address, log_file, ["--proposer", "ngram"], service="draft")
        try:
            worker.wait_serving()
            done.wait(KILLED_AFTER_S)
        finally:
            worker.kill()
        Path(address.removeprefix("unix:")).unlink(missing_ok=True)
        if done.is_set():
            return kills
    raise AssertionError


def test_the_embedded_model(embedded_model: Path) -> None:
    """Two requests, a draft in bfloat16 and n-grams beside it."""
    text = "Repeat after me: the quick brown fox jumps over the lazy dog. The quick brown fox"
    samplings = {"greedy": SamplingParams(), "sampled": SamplingParams(temperature=0.8, seed=11)}
    requests = {name: text_request(text, 20, sampling, logprobs=2) for name, sampling in samplings.items()}
    with (
        rank_group(embedded_model, 1) as ranks,
        draft_process(model=embedded_model, dtype="bfloat16", threads=1, kv_cache_tokens=2048) as draft,
        tempfile.TemporaryDirectory(prefix="tandem-test-") as work,
    ):
        bare = Scene(embedded_model, [rank.address for rank in ranks], Path(work), requests, {})
        with bare.gateway() as gateway:
            scene = replace(bare, expected=ask(gateway, requests))
        with scene.gateway(drafts=draft.address, ngram=True) as gateway:
            report = scene.check(gateway)
    assert report.drafted > 0
