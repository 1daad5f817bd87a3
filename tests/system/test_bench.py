"""`tandem bench` from end to end, on a tiny model of random weights."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from shard_worker.checkpoint.output_folder import OutputFolder
from shard_worker.checkpoint.random_model import random_model
from shard_worker.checkpoint.writer import write_checkpoint
from tests.support.cluster import Cluster, command_line, environment

OTHER = f"{sys.executable} -c \"print('Average tokens/sec: 10.0')\""
COMMON = {"output_tokens": 6, "prompt_tokens": "4-8", "warm_up": 1, "requests": 3, "peak_gb_s": 20}


def bench(**flags: object) -> subprocess.CompletedProcess[str]:
    line = command_line("bench", **(COMMON | flags))
    return subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def tiny_random(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random") / "tiny"
    with OutputFolder(folder) as output:
        write_checkpoint(random_model("tiny", 0), output, "tiny", "bfloat16", lambda what, done, total: None)
    return folder


def test_a_running_gateway(tiny_cluster: Cluster, tmp_path: Path) -> None:
    json_file = tmp_path / "run.json"
    done = bench(address=tiny_cluster.address, concurrency="1", json=json_file)
    assert done.returncode == 0, done.stderr
    results = json.loads(json_file.read_text())
    assert results["loads"][0]["tokens"] == 18
    assert (results["weight_bytes_per_step"], results["peak_resident_bytes"]) == (None, {})
    assert "1 stream" in done.stdout


def test_a_gateway_of_its_own(tiny_random: Path, tmp_path: Path) -> None:
    json_file, svg_file = tmp_path / "run.json", tmp_path / "run.svg"
    done = bench(
        model=tiny_random, tp=2, threads=1, concurrency="1,2", rate="50", json=json_file, report=svg_file,
        compare=OTHER, compare_pairs=2, shard="kv_cache_tokens=4096",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads(json_file.read_text())
    assert [load["load"] for load in results["loads"]] == ["1 stream", "2 streams", "50/s"]
    for load in results["loads"]:
        assert (load["requests"], load["tokens"], load["failures"]) == (3, 18, {})
        assert 12 <= load["prompt_tokens"] <= 24
        assert 0 < load["time_to_first_token_ms"]["p50"] <= load["time_to_first_token_ms"]["p99"]
        assert load["hops"]["compute_ms"] > 0 and load["hops"]["collective_ms"] > 0
    assert results["model"]["tensor_parallel_size"] == 2
    # Both halves of 512 * 64 embedding, and of two layers of 64 * (64 + 2 * 32 + 64 + 3 * 160), in float32; 5 norms
    # of 64 for each rank.
    assert results["weight_bytes_per_step"] == 4 * (512 * 64 + 2 * 64 * (64 + 64 + 64 + 480) + 2 * 5 * 64)
    assert results["waterfall"]["client_total_ms"] >= results["waterfall"]["client_first_token_ms"] > 0
    assert set(results["peak_resident_bytes"]) == {"rank 0", "rank 1", "gateway"}
    assert results["peak_resident_bytes"]["rank 0"] > 50 << 20
    assert results["comparison"]["theirs"] == [10.0, 10.0]
    assert results["comparison"]["metric"] == "whole"
    assert ElementTree.fromstring(svg_file.read_text()).tag.endswith("svg")
    assert "gpt-fast's definition" in done.stdout and "rank 1" in done.stdout


def test_lengths_beyond_the_model_are_refused(tiny_cluster: Cluster) -> None:
    done = bench(address=tiny_cluster.address, concurrency="1", output_tokens=5000)
    assert done.returncode == 2
    assert "exceed the context of 4096" in done.stderr


def test_a_command_that_fails_ends_it(tiny_cluster: Cluster) -> None:
    done = bench(address=tiny_cluster.address, concurrency="1", compare="false")
    assert done.returncode == 1
    assert "exit code 1" in done.stderr


def test_another_checkpoint_is_not_taken_for_the_served_one(tiny_cluster: Cluster, tiny_random: Path) -> None:
    done = bench(address=tiny_cluster.address, concurrency="1", model=tiny_random)
    assert done.returncode == 2
    assert "is not the checkpoint that is served" in done.stderr
