"""A live draft worker: its rules, broken one by one, and what is merely late or forgotten."""

import random
import signal
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from common.draft_protocol import PROTOCOL_VERSION, prefix_hash
from tandem.draft.v1 import draft_service_pb2 as pb
from tests.support.draft_stream import DraftStream, draft_process
from tests.support.drafting import GREEDY, Target, commit, ids_of, open_
from tests.support.ranks import RankProcess
from tests.support.step_client import refusal_reason
from tests.support.tiny_model import TinyModel

PROMPT = random.Random(2).choices(range(256), k=30)
NAN = float("nan")


@pytest.fixture(scope="module")
def worker(tiny_model: TinyModel) -> Iterator[RankProcess]:
    """A worker that drafts with the target's own weights and remembers eight requests."""
    with draft_process(
        model=tiny_model.folder, dtype="float32", threads=1, kv_cache_tokens=4096, max_requests=8
    ) as worker:
        yield worker
        assert worker.running, f"a test ended the worker:\n{worker.log}"


def refused(stream: DraftStream, request: pb.ProposeRequest) -> str:
    """The reason for which a message ends the stream."""
    stream.send(request)
    with pytest.raises(grpc.RpcError) as caught:
        while True:
            stream.receive()
    return refusal_reason(caught.value)


def attach(**fields: Any) -> pb.ProposeRequest:
    return pb.ProposeRequest(attach=pb.Attach(**fields))


def batch(*opens: pb.Open, commits: Any = ()) -> pb.ProposeRequest:
    return pb.ProposeRequest(batch=pb.Batch(opens=opens, commits=commits))


def with_sampling(**fields: Any) -> pb.ProposeRequest:
    return batch(open_(1, PROMPT, pb.Sampling(**fields)))


BAD_BATCHES = {
    "nothing at all": pb.ProposeRequest(),
    "a second attach": attach(protocol_version=PROTOCOL_VERSION),
    "no ids": batch(open_(1, [])),
    "half an id": batch(pb.Open(request=1, epoch=1, ids=b"\1\0\0")),
    "an id beyond the vocabulary": batch(open_(1, [263])),
    "a negative id": batch(open_(1, [-1])),
    "a prompt longer than the text": batch(pb.Open(request=1, epoch=1, ids=bytes(8), prompt_length=3)),
    "a committed id beyond the vocabulary": batch(commits=[commit(1, 1, 30, [2**31 - 1])]),
    "a commit of nothing after nothing": batch(commits=[commit(1, 1, 0)]),
    "a negative temperature": with_sampling(temperature=-1.0),
    "a temperature that is no number": with_sampling(temperature=NAN),
    "a top_p above 1": with_sampling(temperature=1.0, top_p=1.5),
    "a negative min_p": with_sampling(temperature=1.0, min_p=-0.1),
    "an endless penalty": with_sampling(presence_penalty=float("inf")),
    "a negative repetition penalty": with_sampling(repetition_penalty=-1.0),
    "biases without ids": with_sampling(bias_values=bytes(4)),
    "a bias that is no number": with_sampling(bias_ids=bytes(4), bias_values=np.array([NAN], "<f4").tobytes()),
}


@pytest.mark.parametrize("name", BAD_BATCHES)
def test_a_broken_rule_ends_the_stream_and_no_other(worker: RankProcess, target: Target, name: str) -> None:
    with DraftStream(worker.address) as stream, DraftStream(worker.address) as other:
        stream.attach()
        other.attach()
        assert refused(stream, BAD_BATCHES[name]) == "BAD_MESSAGE"
        other.tell(opens=[open_(1, PROMPT)], commits=[commit(1, 1, 30)])
        assert ids_of(other.proposals(1)[0]) == target.draw(PROMPT, GREEDY, 4)


def test_the_first_message_must_be_attach(worker: RankProcess) -> None:
    with DraftStream(worker.address) as stream:
        assert refused(stream, batch(open_(1, PROMPT))) == "BAD_MESSAGE"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"protocol_version": PROTOCOL_VERSION + 1}, "WRONG_PROTOCOL_VERSION"),
        ({"vocabulary_hash": "0" * 64}, "WRONG_VOCABULARY"),
        ({"vocabulary_hash": ""}, "WRONG_VOCABULARY"),
        ({"vocabulary_size": 262}, "WRONG_VOCABULARY"),
    ],
)
def test_a_gateway_of_another_kind_is_refused(worker: RankProcess, changes: dict[str, Any], reason: str) -> None:
    with DraftStream(worker.address) as stream, pytest.raises(grpc.RpcError) as caught:
        stream.attach(**changes)
    assert refusal_reason(caught.value) == reason


def test_what_is_proposed_and_how_it_is_told(worker: RankProcess, target: Target) -> None:
    truth = target.draw(PROMPT, GREEDY, 9)
    with DraftStream(worker.address) as stream:
        info = stream.attach()
        assert (info.proposer, info.name, info.vocabulary_size, info.context_length) == ("model", "tiny", 263, 1024)
        assert (info.max_count, info.max_requests, info.kv_cache_tokens) == (16, 8, 4096)
        stream.tell(opens=[open_(7, PROMPT)], commits=[commit(7, 1, 30)])
        (first,) = stream.proposals(1)
        stream.tell(commits=[commit(7, 2, 30, truth[:5])])
        (second,) = stream.proposals(1)
        load = stream.load()
    assert (first.request, first.epoch, first.round, first.base_length) == (7, 1, 1, 30)
    assert first.prefix_hash == prefix_hash(np.array(PROMPT, np.int32))
    assert (ids_of(first), ids_of(second)) == (truth[:4], truth[5:9])
    probabilities, margins = np.frombuffer(first.probabilities, "<f4"), np.frombuffer(first.margins, "<f4")
    assert len(probabilities) == len(margins) == 4
    assert (probabilities > 0).all() and (probabilities <= 1).all() and (margins > 0).all()
    assert first.compute_ns > 0 and first.num_steps > 0 and load.step_ns > 0
    assert (load.open_requests, load.waiting, load.draining) == (1, 0, False) and 0 < load.busy_fraction <= 1


def test_what_is_late_or_forgotten_is_answered(worker: RankProcess) -> None:
    with DraftStream(worker.address) as stream:
        stream.attach()
        stream.tell(commits=[commit(1, 1, 30)])
        assert stream.proposals(1)[0].outcome == pb.OUTCOME_UNKNOWN
        stream.tell(opens=[open_(1, PROMPT, epoch=3)], commits=[commit(1, 1, 30)])
        assert stream.proposals(1)[0].outcome == pb.OUTCOME_UNKNOWN  # the commit's epoch is 1
        stream.tell(commits=[commit(1, 5, 31, epoch=3)])
        gap = stream.proposals(1)[0]
        assert (gap.outcome, gap.known_length) == (pb.OUTCOME_GAP, 30)
        stream.tell(commits=[commit(1, 5, 30, epoch=3)])
        assert stream.proposals(1)[0].outcome == pb.OUTCOME_PROPOSED
        for again in (5, 4):
            stream.tell(commits=[commit(1, again, 30, epoch=3)])
            assert stream.proposals(1)[0].outcome == pb.OUTCOME_STALE
        stream.tell(commits=[commit(1, 6, 30, epoch=3), commit(1, 7, 30, epoch=3)])
        assert [(p.round, p.outcome) for p in sorted(stream.proposals(2), key=lambda p: p.round)] == [
            (6, pb.OUTCOME_STALE),
            (7, pb.OUTCOME_PROPOSED),
        ]
        stream.tell(opens=[open_(1, PROMPT[:3], epoch=2)], closes=[pb.Close(request=1, epoch=2)])  # both too old
        stream.tell(commits=[commit(1, 8, 30, epoch=3)])
        assert stream.proposals(1)[0].outcome == pb.OUTCOME_PROPOSED
        stream.tell(commits=[commit(1, 9, 30, epoch=3, deadline_ns=1)])
        assert stream.proposals(1)[0].outcome in (pb.OUTCOME_LATE, pb.OUTCOME_PROPOSED)
        stream.tell(commits=[commit(1, 10, 30, [1] * 1000, epoch=3)])
        assert stream.proposals(1)[0].outcome == pb.OUTCOME_FULL
        stream.tell(commits=[commit(1, 11, 30, [1] * 992, epoch=3, count=9)])
        assert len(ids_of(stream.proposals(1)[0])) == 2  # all that the context has room for
        stream.tell(closes=[pb.Close(request=1, epoch=3)], commits=[])
        stream.tell(commits=[commit(1, 12, 30, epoch=3)])
        assert stream.proposals(1)[0].outcome == pb.OUTCOME_UNKNOWN


def test_requests_of_two_gateways_do_not_meet(worker: RankProcess, target: Target) -> None:
    with DraftStream(worker.address) as one, DraftStream(worker.address) as other:
        for stream, text in ((one, PROMPT), (other, PROMPT[:20])):
            stream.attach()
            stream.tell(opens=[open_(1, text)], commits=[commit(1, 1, len(text))])
        assert ids_of(one.proposals(1)[0]) == target.draw(PROMPT, GREEDY, 4)
        assert ids_of(other.proposals(1)[0]) == target.draw(PROMPT[:20], GREEDY, 4)
        one.close()
        other.tell(commits=[commit(1, 2, 20)])
        assert other.proposals(1)[0].outcome == pb.OUTCOME_PROPOSED
        assert other.load().open_requests == 1  # the other session's went with its stream


def test_ten_thousand_abandoned_requests_leave_eight(worker: RankProcess) -> None:
    with DraftStream(worker.address) as stream:
        stream.attach()
        for first in range(0, 10_000, 100):
            stream.tell(opens=[open_(number, PROMPT) for number in range(first, first + 100)])
        stream.tell(commits=[commit(0, 1, 30), commit(9_999, 1, 30)])
        outcomes = {proposal.request: proposal.outcome for proposal in stream.proposals(2)}
        assert outcomes == {0: pb.OUTCOME_UNKNOWN, 9_999: pb.OUTCOME_PROPOSED}
        load = stream.load()
        assert load.open_requests == 8 and load.kv_cache_used_tokens <= 8 * 64


def test_sigterm_drains(tiny_model: TinyModel) -> None:
    with (
        draft_process(model=tiny_model.folder, dtype="float32", threads=1, kv_cache_tokens=4096) as worker,
        DraftStream(worker.address) as stream,
    ):
        stream.attach()
        stream.tell(opens=[open_(1, PROMPT)], commits=[commit(1, 1, 30)])
        assert stream.proposals(1)[0].outcome == pb.OUTCOME_PROPOSED
        worker.signal(signal.SIGTERM)
        assert stream.receive().answers.load.draining
        assert worker.wait() == 0
