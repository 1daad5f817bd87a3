"""Draft workers that stop, never come, come late or do not fit: streams go on, and drafts come when they can."""

import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tandem.v1 import inference_service_pb2 as pb
from tests.support.answers import generate_all
from tests.support.draft_stream import draft_process
from tests.support.gateway_process import POLL_S, GatewayProcess, running_gateway
from tests.support.ranks import RankProcess, rank_group
from tests.support.speculation_cases import plain_requests
from tests.support.tiny_model import TinyModel, TinyShape, make_tiny_model
from tests.support.watched_streams import wait_for_drafts, watched

ATTEMPTS = 3
BEFORE_S = 2.0
STOPPED_S = 6.0  # so long that the breaker has opened for longer than the worker may take to be used again
USED_AGAIN_S = 5.0
LONGEST_GAP = 3.0  # over a stream's median
DEADLINE_S = 60.0
RETRIES_S = 2.0  # the gateway tries again four times in so long


@pytest.fixture(scope="module")
def rank(tiny_model: TinyModel) -> Iterator[str]:
    """A rank whose steps take long for such a small model, so that drafting pays."""
    with rank_group(tiny_model.folder, 1, kv_cache_tokens=32_768, module="tests.support.slow_rank") as ranks:
        yield ranks[0].address


@contextmanager
def gateway_of(model: TinyModel, rank: str, *drafts: str) -> Iterator[tuple[GatewayProcess, Path]]:
    """Run a gateway that knows these draft workers; yields it and a folder for sockets."""
    with tempfile.TemporaryDirectory(prefix="tandem-test-") as name:
        work = Path(name)
        addresses = ",".join(address.replace("HERE", name) for address in drafts)
        with running_gateway(model.folder, [rank], work, drafts=addresses) as gateway:
            gateway.wait_serving()
            yield gateway, work


def requests_of(kind: str, **stopping: Any) -> list[pb.GenerateRequest]:
    """Return three requests, greedy and sampled."""
    requests = [request for name, request in plain_requests().items() if name.startswith(kind)]
    for request in requests:
        request.stopping.MergeFrom(pb.StoppingParams(**stopping))
    return requests


def lines_about_drafts(gateway: GatewayProcess) -> list[str]:
    return [line for line in gateway.log.splitlines() if "draft worker" in line]


def test_a_stopped_worker_holds_nobody_up_and_is_used_again(tiny_model: TinyModel, rank: str) -> None:
    """The gaps of an attempt's streams while the worker is stopped, beside those just before. One quiet attempt is
    enough: the machine has other work.
    """
    settings = {"dtype": "float32", "threads": 1, "kv_cache_tokens": 32_768}
    with (
        draft_process(model=tiny_model.folder, **settings) as draft,
        gateway_of(tiny_model, rank, draft.address) as (gateway, _),
        watched(gateway, requests_of("plain", max_tokens=2000)) as streams,
    ):
        wait_for_drafts(streams, DEADLINE_S)
        attempts, is_quiet = list[str](), False
        while not is_quiet and len(attempts) < ATTEMPTS:
            began_s = time.monotonic()
            time.sleep(BEFORE_S)
            stopped_s = time.monotonic()
            draft.signal(signal.SIGSTOP)
            time.sleep(STOPPED_S)
            continued_s = time.monotonic()
            draft.signal(signal.SIGCONT)
            used_s = wait_for_drafts(streams, DEADLINE_S)
            before = max(stream.ratio(began_s, stopped_s) for stream in streams)
            stopped = max(stream.ratio(stopped_s, continued_s) for stream in streams)
            attempts.append(f"longest gap {before:.1f}, stopped {stopped:.1f} medians; used again after {used_s:.1f} s")
            is_quiet = stopped <= max(LONGEST_GAP, before) and used_s <= USED_AGAIN_S
    assert is_quiet, attempts


def test_no_worker_at_all_is_one_line(tiny_model: TinyModel, rank: str) -> None:
    with gateway_of(tiny_model, rank, "unix:HERE/nobody.sock") as (gateway, _):
        time.sleep(RETRIES_S)
        answers = generate_all(gateway.client.stub, requests_of("plain"))
        lines = lines_about_drafts(gateway)
    assert len(lines) == 1 and "is missing" in lines[0], gateway.log
    assert not any(answer.finished.speculation.drafted for answer in answers)


def test_a_worker_that_comes_late_is_used(tiny_model: TinyModel, rank: str) -> None:
    """In the middle of streams; another one never comes."""
    with (
        gateway_of(tiny_model, rank, "unix:HERE/nobody.sock", "unix:HERE/late.sock") as (gateway, work),
        watched(gateway, requests_of("biased", max_tokens=2000)) as streams,
    ):
        log_file = work / "late.log"
        late = RankProcess(f"unix:{work}/late.sock", log_file, ["--proposer", "ngram"], service="draft")
        try:
            wait_for_drafts(streams[:1], DEADLINE_S)
        finally:
            late.kill()


def test_a_worker_with_another_vocabulary_is_refused(
    tiny_model: TinyModel, rank: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = make_tiny_model(tmp_path_factory.mktemp("other"), TinyShape(vocabulary_size=270))
    with (
        draft_process(model=other.folder, dtype="float32", threads=1, kv_cache_tokens=1024) as draft,
        gateway_of(tiny_model, rank, draft.address) as (gateway, _),
    ):
        deadline_s = time.monotonic() + DEADLINE_S
        while not lines_about_drafts(gateway):
            assert time.monotonic() < deadline_s
            time.sleep(POLL_S)
        answers = generate_all(gateway.client.stub, requests_of("plain"))
        (line,) = lines_about_drafts(gateway)
        assert draft.running
    assert "cannot be used" in line and "270 ids" in line and "263" in line
    assert all(answer.usage.completion_tokens == 40 and not answer.finished.speculation.drafted for answer in answers)
