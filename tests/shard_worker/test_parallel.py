"""The group of ranks: how they fail to meet, and what a group of one does."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from common.errors import SettingsError
from shard_worker.parallel import form_group
from tests.support.bad_plans import good_plan
from tests.support.cluster import environment
from tests.support.plans import PlanRow, make_plan
from tests.support.ranks import rank_group
from tests.support.step_client import StepGroup
from tests.support.tiny_model import TinyModel

CPU = torch.device("cpu")


def test_a_group_of_one_meets_nobody_and_adds_nothing() -> None:
    before = time.time_ns()
    group = form_group(0, 1, "", CPU, timeout_s=1.0)
    part = torch.randn(3)
    assert group.all_reduce(part) is part and group.take_collective_ns() == 0
    assert before <= group.epoch <= time.time_ns()
    group.close()


@pytest.mark.parametrize("rendezvous", ["", "tcp://localhost", "tcp://:29500", "file://", "http://localhost:1", "x"])
def test_a_rendezvous_must_be_an_address(rendezvous: str) -> None:
    with pytest.raises(SettingsError, match="neither tcp://host:port nor file:///path"):
        form_group(0, 2, rendezvous, CPU, timeout_s=1.0)


@pytest.mark.parametrize("kind", ["file", "tcp"])
def test_peers_that_do_not_come_are_not_waited_for_forever(tmp_path: Path, kind: str) -> None:
    rendezvous = f"file://{tmp_path}/rendezvous" if kind == "file" else "tcp://127.0.0.1:1"  # nobody listens there
    began = time.monotonic()
    with pytest.raises(SettingsError, match="2 ranks did not meet at"):
        form_group(1, 2, rendezvous, CPU, timeout_s=1.0)
    assert time.monotonic() - began < 10


def test_meeting_by_tcp_may_take_longer_than_a_collective() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        rendezvous = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    # In a process of its own: torch keeps a pipe of a store that nobody came to.
    code = (
        "import sys, torch; from shard_worker.parallel import form_group;"
        "form_group(0, 2, sys.argv[1], torch.device('cpu'), timeout_s=0.2, meet_timeout_s=2.0)"
    )
    line = [sys.executable, "-c", code, rendezvous]
    began = time.monotonic()
    failed = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert "2 ranks did not meet" in failed.stderr and "they have 2 s" in failed.stderr
    assert time.monotonic() - began >= 2


def test_ranks_meet_by_tcp_and_tell_the_time_in_collectives(tiny_model: TinyModel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        rendezvous = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    before = time.time_ns()
    with (
        rank_group(tiny_model.folder, 2, rendezvous=rendezvous) as ranks,
        StepGroup([rank.address for rank in ranks]) as group,
    ):
        assert before < group.infos[0].epoch < time.time_ns()
        first, second = (group.run(plan) for plan in (good_plan(), make_plan([PlanRow(1, 5, [10], [3], sampled=1)])))
    for result in (*first, *second):
        assert result.collective_ns > 0 and result.compute_ns > 0
