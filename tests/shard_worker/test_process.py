"""A rank as a process: when it says SERVING, and how it ends."""

import asyncio
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import pytest

from common.errors import CheckpointError, SettingsError
from shard_worker.server import serve
from shard_worker.settings import ShardSettings
from tandem.shard.v1 import shard_service_pb2 as pb
from tandem.shard.v1 import shard_service_pb2_grpc
from tests.support.bad_plans import good_plan
from tests.support.plans import PlanRow, make_plan
from tests.support.ranks import SERVING, RankProcess, rank_group, start_rank
from tests.support.step_client import StepGroup, StepStream, refusal_reason
from tests.support.sync_stream import open_sync_channel
from tests.support.tiny_model import TinyModel

# Far below the collective's timeout of a minute, far above what a busy machine needs.
SOON_S = 15.0

Start = Callable[..., RankProcess]


@pytest.fixture
def start(tiny_model: TinyModel) -> Iterator[Start]:
    """Start ranks of the tiny model that are gone after the test."""
    started = []
    with TemporaryDirectory(prefix="tandem-") as name:

        def start(rank: int = 0, tp: int = 1, model: Path = tiny_model.folder, **settings: Any) -> RankProcess:
            started.append(start_rank(model, Path(name), rank, tp, **settings))
            return started[-1]

        yield start
        for process in started:
            process.kill()


@pytest.fixture
def left_behind() -> Iterator[str]:
    """A unix socket whose owner is gone: it may be taken."""
    with TemporaryDirectory(prefix="tandem-") as name:
        with socket.socket(socket.AF_UNIX) as owner:
            owner.bind(f"{name}/rank.sock")
        yield f"unix:{name}/rank.sock"


def wait_answering(rank: RankProcess) -> None:
    """Wait until health is answered, whatever it says."""
    deadline = time.monotonic() + 60
    while rank.health() is None:
        assert rank.running and time.monotonic() < deadline, rank.log
        time.sleep(0.05)


def wait_draining(rank: RankProcess) -> None:
    """Wait until it says that it is about to stop."""
    deadline = time.monotonic() + SOON_S
    while not get_info(rank).draining:
        assert rank.running and time.monotonic() < deadline, rank.log
        time.sleep(0.05)


def get_info(rank: RankProcess) -> pb.GetInfoResponse:
    with open_sync_channel(rank.address) as channel:
        stub = shard_service_pb2_grpc.ShardServiceStub(channel)
        info: pb.GetInfoResponse = stub.GetInfo(pb.GetInfoRequest(), timeout=5.0)
        return info


def assert_told(rank: RankProcess, text: str) -> None:
    """One line of the log says it, and nobody has to read a traceback."""
    (line,) = [line for line in rank.log.splitlines() if line.startswith("tandem: ")]
    assert text in line and "Traceback" not in rank.log


def test_serving_comes_after_loading_and_sigterm_ends_it(start: Start, left_behind: str) -> None:
    """A rank that waits for its peer is alive but does not serve; with the peer both do."""
    first = start(0, 2, listen=left_behind)
    wait_answering(first)
    assert first.health() != SERVING
    with pytest.raises(grpc.RpcError) as caught:
        get_info(first)
    assert isinstance(caught.value, grpc.Call) and caught.value.code() is grpc.StatusCode.UNAVAILABLE
    second = start(1, 2)
    for rank in (first, second):
        rank.wait_serving()
    infos = [get_info(rank) for rank in (first, second)]
    assert infos[0].epoch == infos[1].epoch and [info.rank for info in infos] == [0, 1]
    with StepGroup([first.address, second.address]) as group:
        group.run(good_plan())
        for rank in (first, second):
            rank.signal(signal.SIGTERM)
        for rank in (first, second):
            wait_draining(rank)
            assert rank.health() != SERVING
            with StepStream(rank.address) as late, pytest.raises(grpc.RpcError) as refused:
                late.attach()
            assert refusal_reason(refused.value) == "DRAINING"
        group.run(make_plan([PlanRow(1, 5, [10], [3], sampled=1)]))  # until the gateway has found another group
        assert first.running and second.running
    for rank in (first, second):
        assert rank.wait(SOON_S) == 0
        assert "stopped" in rank.log


def test_a_gateway_that_does_not_leave_is_cut_off_when_the_budget_ends(start: Start) -> None:
    rank = start(drain_budget_s=0.5)
    rank.wait_serving()
    with StepGroup([rank.address]) as group:
        group.run(good_plan())
        rank.signal(signal.SIGTERM)
        assert rank.wait(SOON_S) == 0
        assert "drain did not end within 0.5 s" in rank.log


def test_sigterm_ends_a_rank_that_waits_for_its_peers(start: Start) -> None:
    rank = start(0, 2)
    wait_answering(rank)
    time.sleep(0.5)  # into the rendezvous
    rank.signal(signal.SIGTERM)
    assert rank.wait(SOON_S) == 0


def test_a_rank_whose_peer_dies_leaves_its_collective_and_ends(tiny_model: TinyModel) -> None:
    with rank_group(tiny_model.folder, 2) as ranks, StepStream(ranks[0].address) as stream:
        stream.attach()
        stream.send(pb.RunRequest(frame=stream.frame(good_plan(), 1)))
        time.sleep(0.5)  # the first rank is in its first collective now
        ranks[1].signal(signal.SIGKILL)
        with pytest.raises(grpc.RpcError) as caught:
            stream.receive()
        assert isinstance(caught.value, grpc.Call) and caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert ranks[0].wait(SOON_S) > 0
        assert_told(ranks[0], "another rank of the group was lost")


def test_sigterm_ends_a_rank_that_hangs_and_its_peer_ends_at_its_next_step(tiny_model: TinyModel) -> None:
    with rank_group(tiny_model.folder, 2, drain_budget_s=0.5) as ranks:
        with StepStream(ranks[0].address) as stream:
            stream.attach()
            stream.send(pb.RunRequest(frame=stream.frame(good_plan(), 1)))  # the other rank never gets it
            time.sleep(0.5)
            ranks[0].signal(signal.SIGTERM)
            assert ranks[0].wait(SOON_S) == 0
        with StepStream(ranks[1].address) as stream:
            stream.attach()
            with pytest.raises(grpc.RpcError):
                stream.run(good_plan(), 1)
            assert ranks[1].wait(SOON_S) > 0
            assert_told(ranks[1], "another rank of the group was lost")


def test_a_missing_checkpoint_is_one_line_and_exit_2(start: Start) -> None:
    rank = start(model=Path("/nowhere"))
    assert rank.wait(SOON_S * 2) == 2
    assert_told(rank, "no checkpoint in /nowhere")


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"model": "/nowhere"}, CheckpointError, "no checkpoint in /nowhere"),
        ({"tp": 2, "rendezvous": "http://localhost:1"}, SettingsError, "neither tcp://host:port nor file:///path"),
        ({"tp": 2, "rendezvous": "file:///nowhere/x"}, SettingsError, "there is no folder /nowhere"),
        ({"tp": 7}, CheckpointError, "7 ranks cannot share 6 query heads"),
        ({"rank": 1}, CheckpointError, "rank 1 is not one of 1 ranks"),
        ({"device": "toaster"}, SettingsError, "device 'toaster' cannot be used"),
    ],
)
def test_what_cannot_start_says_why(
    tiny_model: TinyModel, settings: dict[str, Any], error: type[Exception], text: str
) -> None:
    with TemporaryDirectory(prefix="tandem-") as name, pytest.raises(error, match=re.escape(text)):
        defaults = {"model": tiny_model.folder, "listen": f"unix:{name}/rank.sock", "threads": 1}
        asyncio.run(serve(ShardSettings.model_validate(defaults | settings)))


def test_a_busy_port_is_refused(tiny_model: TinyModel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SettingsError, match=f"cannot listen on {listen}"):
            asyncio.run(serve(ShardSettings(model=tiny_model.folder, listen=listen)))


def test_a_busy_unix_socket_stays_its_owner_s(tiny_model: TinyModel, tiny_rank: RankProcess) -> None:
    with pytest.raises(SettingsError, match=f"cannot listen on {tiny_rank.address}"):
        asyncio.run(serve(ShardSettings(model=tiny_model.folder, listen=tiny_rank.address)))
    assert tiny_rank.health() == SERVING
