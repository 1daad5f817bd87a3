"""The rules of the step stream, broken one by one on a live rank that goes on serving."""

import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from common.step_protocol import PROTOCOL_VERSION, plan_hash, ran_hash
from shard_worker.plan import Bounds
from tandem.shard.v1 import shard_service_pb2 as pb
from tests.support.bad_plans import bad_rows, bad_sequences, good_plan
from tests.support.plans import PlanRow, make_plan, merged_greedy, merged_rows
from tests.support.ranks import SERVING, RankProcess
from tests.support.reference import reference_logits
from tests.support.step_client import StepGroup, StepStream, refusal_reason
from tests.support.tiny_model import TinyModel

BOUNDS = Bounds(256, block_size=16, vocabulary_size=263, context_length=1024, max_step_tokens=64)
BAD_PLANS = bad_rows(BOUNDS) | bad_sequences()
PLAN = good_plan()
NEXT = make_plan([PlanRow(1, 5, [10], [3], sampled=1)])


def refused(work: Callable[[], object]) -> str:
    """The reason for which a call is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        work()
    return refusal_reason(caught.value)


def assert_serves(rank: RankProcess) -> None:
    with StepStream(rank.address) as stream:
        stream.attach()
        assert stream.run(PLAN, 1).step == 1


def test_the_bounds_are_the_rank_s(tiny_rank: RankProcess) -> None:
    with StepStream(tiny_rank.address) as stream:
        info = stream.info
    told = (info.num_blocks, info.block_size_tokens, info.context_length, info.max_step_tokens)
    assert told == (BOUNDS.num_blocks, BOUNDS.block_size, BOUNDS.context_length, BOUNDS.max_step_tokens)
    assert (info.rank, info.world_size, info.vocabulary_first, info.vocabulary_size) == (0, 1, 0, 263)
    assert (info.dtype, info.device, info.quantization) == ("float32", "cpu", "none")
    assert info.protocol_version == PROTOCOL_VERSION and len(info.checkpoint_hash) == 64 and info.epoch > 0


@pytest.mark.parametrize("name", BAD_PLANS)
def test_a_bad_plan_is_refused_and_the_rank_goes_on(tiny_rank: RankProcess, name: str) -> None:
    plan = good_plan()
    BAD_PLANS[name](plan)
    with StepStream(tiny_rank.address) as stream:
        stream.attach()
        assert refused(lambda: stream.run(plan, 1)) == "BAD_PLAN"
    assert_serves(tiny_rank)


@pytest.mark.parametrize("data", [b"\xff" * 20, b"\x0a\xff", PLAN.SerializeToString()[:-3]])
def test_a_plan_that_is_none_is_refused(tiny_rank: RankProcess, data: bytes) -> None:
    with StepStream(tiny_rank.address) as stream:
        stream.attach()
        assert refused(lambda: stream.run(data, 1)) == "BAD_PLAN"
    assert_serves(tiny_rank)


@pytest.mark.parametrize(
    "request_", [pb.RunRequest(frame=pb.Frame()), pb.RunRequest(resolve=pb.Resolve()), pb.RunRequest()]
)
def test_the_first_message_must_be_attach(tiny_rank: RankProcess, request_: pb.RunRequest) -> None:
    with StepStream(tiny_rank.address) as stream:
        assert refused(lambda: stream.exchange(request_)) == "BAD_PLAN"


@pytest.mark.parametrize("again", ["attach", "nothing"])
def test_messages_that_may_not_follow(tiny_rank: RankProcess, again: str) -> None:
    with StepStream(tiny_rank.address) as stream:
        stream.attach()
        assert refused(stream.attach if again == "attach" else lambda: stream.exchange(pb.RunRequest())) == "BAD_PLAN"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"protocol_version": PROTOCOL_VERSION + 1}, "WRONG_PROTOCOL_VERSION"),
        ({"epoch": 1}, "WRONG_EPOCH"),
        ({"checkpoint_hash": "0" * 64}, "WRONG_CHECKPOINT"),
        ({"fence": 0}, "STALE_FENCE"),
        ({"only_if_free": True}, "HELD"),
    ],
)
def test_a_wrong_attach_is_refused(tiny_rank: RankProcess, changes: dict[str, Any], reason: str) -> None:
    with StepStream(tiny_rank.address) as holder, StepStream(tiny_rank.address) as stream:
        holder.attach()
        assert refused(lambda: stream.attach(**changes)) == reason
        assert holder.run(PLAN, 1).step == 1, "a refused attach must not take the rank over"


@pytest.mark.parametrize(
    ("step", "changes", "reason"),
    [
        (1, {}, "WRONG_STEP"),  # repeated
        (0, {}, "WRONG_STEP"),
        (3, {}, "WRONG_STEP"),  # one left out
        (2**64 - 1, {}, "WRONG_STEP"),
        (2, {"epoch": 1}, "WRONG_EPOCH"),
        (2, {"plan_hash": 1}, "WRONG_PLAN_HASH"),
        (2, {"plan": PLAN.SerializeToString()}, "WRONG_PLAN_HASH"),
    ],
)
def test_a_frame_that_does_not_follow_is_refused(
    tiny_rank: RankProcess, step: int, changes: dict[str, Any], reason: str
) -> None:
    with StepStream(tiny_rank.address) as stream:
        stream.attach()
        stream.run(PLAN, 1)
        assert refused(lambda: stream.run(NEXT, step, **changes)) == reason
    assert_serves(tiny_rank)


def test_ran_hash_chains_what_was_run(tiny_rank: RankProcess) -> None:
    with StepStream(tiny_rank.address) as stream:
        stream.attach()
        chain = 0
        for step, plan in enumerate([PLAN, NEXT, NEXT], start=1):
            result = stream.run(plan, step)
            chain = ran_hash(chain, plan_hash(stream.info.epoch, step, plan.SerializeToString()))
            assert (result.epoch, result.step, result.ran_hash) == (stream.info.epoch, step, chain)
            assert result.compute_ns > 0 and result.encode_ns > 0


def test_a_higher_fence_takes_over_and_the_old_gateway_is_refused(tiny_rank: RankProcess) -> None:
    with StepStream(tiny_rank.address) as old, StepStream(tiny_rank.address) as new:
        fence = time.time_ns()
        old.attach(fence=fence)
        old.run(PLAN, 1)
        assert refused(lambda: StepStream(tiny_rank.address).attach(fence=fence)) == "STALE_FENCE"
        new.attach(fence=fence + 1)
        assert refused(lambda: old.run(NEXT, 2)) == "STALE_FENCE"
        # The new one starts from nothing: sequence 1 is not known, and may be opened.
        assert new.run(PLAN, 1).step == 1


def test_a_rank_is_free_once_the_stream_that_held_it_has_ended(tiny_rank: RankProcess) -> None:
    def is_held() -> bool:
        with StepStream(tiny_rank.address) as stream:
            return bool(stream.info.held)

    with StepStream(tiny_rank.address) as first, StepStream(tiny_rank.address) as second:
        assert first.attach().held
        second.attach()
        assert refused(lambda: first.run(PLAN, 1)) == "STALE_FENCE"
        assert is_held(), "a stream that was taken over from does not let go of the rank"
    deadline_s = time.monotonic() + 10
    while is_held():
        assert time.monotonic() < deadline_s
    with StepStream(tiny_rank.address) as stream:
        stream.attach(only_if_free=True)
        assert stream.run(PLAN, 1).step == 1


def test_the_old_gateway_may_not_resolve_either(tiny_rank: RankProcess) -> None:
    with StepStream(tiny_rank.address) as old, StepStream(tiny_rank.address) as new:
        old.attach()
        old.run(PLAN, 1)
        new.attach()
        resolve = pb.RunRequest(resolve=pb.Resolve(epoch=old.info.epoch, step=1, position=0))
        assert refused(lambda: old.exchange(resolve)) == "STALE_FENCE"


def test_an_attach_forgets_all_sequences(tiny_rank: RankProcess) -> None:
    assert_serves(tiny_rank)
    with StepStream(tiny_rank.address) as stream:
        stream.attach()
        assert refused(lambda: stream.run(NEXT, 1)) == "BAD_PLAN"


@pytest.mark.parametrize(
    ("epoch", "step", "position", "reason"),
    [
        (0, 0, 0, "WRONG_STEP"),
        (0, 2, 0, "WRONG_STEP"),
        (0, 1, 1, "BAD_PLAN"),
        (0, 1, 2**32 - 1, "BAD_PLAN"),
        (1, 1, 0, "WRONG_EPOCH"),
    ],
)
def test_a_wrong_resolve_is_refused(tiny_rank: RankProcess, epoch: int, step: int, position: int, reason: str) -> None:
    with StepStream(tiny_rank.address) as stream:
        stream.attach()
        stream.run(PLAN, 1)
        request = pb.Resolve(epoch=epoch or stream.info.epoch, step=step, position=position)
        assert refused(lambda: stream.exchange(pb.RunRequest(resolve=request))) == reason


def test_nothing_to_resolve(tiny_rank: RankProcess) -> None:
    unsampled = make_plan([PlanRow(1, 5, [10], [3])])
    for plans in ([], [PLAN, unsampled]):
        with StepStream(tiny_rank.address) as stream:
            stream.attach()
            for step, plan in enumerate(plans, start=1):
                stream.run(plan, step)
            request = pb.Resolve(epoch=stream.info.epoch, step=len(plans), position=0)
            assert refused(lambda: stream.exchange(pb.RunRequest(resolve=request))) == "BAD_PLAN"  # noqa: B023


def test_a_stream_may_pipeline(tiny_rank: RankProcess, tiny_model: TinyModel) -> None:
    """Frames and resolves sent ahead are answered in order."""
    with StepStream(tiny_rank.address) as stream:
        stream.attach()
        resolve = pb.Resolve(epoch=stream.info.epoch, step=1, position=0)
        stream.send(pb.RunRequest(frame=stream.frame(PLAN, 1)))
        stream.send(pb.RunRequest(resolve=resolve))
        stream.send(pb.RunRequest(frame=stream.frame(NEXT, 2)))
        first, resolved, second = (stream.receive() for _ in range(3))
    expected = reference_logits(tiny_model.reference, [5, 6, 7, 8, 9, 10]).numpy()
    assert merged_greedy([first.result]) == [expected[4].argmax()]
    assert resolved.resolved.step == 1
    assert abs(merged_rows([resolved.resolved]) - expected[4]).max() < 1e-4
    assert merged_greedy([second.result]) == [expected[5].argmax()]


def test_a_client_that_vanishes_leaves_the_rank_serving(tiny_rank: RankProcess) -> None:
    for _ in range(5):
        with StepStream(tiny_rank.address) as stream:
            stream.attach()
            stream.send(pb.RunRequest(frame=stream.frame(PLAN, 1)))
    with StepGroup([tiny_rank.address]) as group:
        assert len(merged_greedy(group.run(PLAN))) == 1
    assert tiny_rank.health() == SERVING
