"""What is derived from measurements, the terminal's tables, JSON and back; and what the machine tells."""

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest

from common.commands.bench import bandwidth_probe
from common.commands.bench.bandwidth import Bandwidth, measure_bandwidth
from common.commands.bench.memory import peak_resident_bytes
from common.commands.bench.results import RooflinePoint, read_roofline, this_machine
from common.commands.bench.table import aligned, table_lines
from tests.common.commands.bench.synthetic import make_results


def test_derived_figures() -> None:
    results = make_results()
    assert results.weight_bytes_per_token == 100e6
    assert results.achieved_gb_per_s == pytest.approx(15.0)
    assert results.share_of_peak == pytest.approx(0.5)
    assert results.single_stream is not None and results.single_stream.grpc_share == 0.75
    one, four = results.roofline
    assert one == RooflinePoint("bfloat16 TP 2, 1 stream", 100e6, 150.0)
    # 9 tokens in 60 ms; 40 and 55 ms of requests in 60: streams share what is read.
    assert four.tokens_per_s == pytest.approx(150.0)
    assert four.weight_bytes_per_token == pytest.approx(100e6 * 60 / 95)


def test_what_is_unknown_stays_unknown() -> None:
    results = replace(make_results(), weight_bytes_per_step=None, peak_gb_per_s=None, single_stream=None)
    assert (results.weight_bytes_per_token, results.achieved_gb_per_s, results.share_of_peak) == (None, None, None)
    assert results.roofline == []
    assert json.loads(results.to_json())["share_of_peak"] is None
    assert any("150.0" in line for line in table_lines(results))


def test_json_and_back(tmp_path: Path) -> None:
    results = make_results()
    path = tmp_path / "run.json"
    path.write_text(results.to_json())
    fields = json.loads(path.read_text())
    assert fields["loads"][1]["tokens"] == 9
    assert fields["loads"][0]["hops"]["compute_ms"] == 5.0
    assert fields["comparison"]["ratio"] == {"median": 3.0, "least": 2.0, "most": 3.0}
    assert fields["bandwidth"]["gb_per_s"] == {"1": 18.0, "2": 30.0}
    assert read_roofline(path) == results.roofline


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "other"}', '{"format": "tandem-bench/1"}'])
def test_another_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(content)
    with pytest.raises(click.ClickException, match=r"run\.json is no result"):
        read_roofline(path)


def test_the_tables_hold_every_figure() -> None:
    shown = "\n".join(table_lines(make_results()))
    for figure in (
        "150.0 tokens/s through gRPC, 200.0 the engine alone (0.750 of it)",
        "gpt-fast's definition (prefill included, mean of requests): 100.0",
        "prefill: 2667 tokens/s",
        "100.0 MB a token, 15.0 GB/s, 50% of 30.0 GB/s",
        "1: 18.0, 2: 30.0",
        "rank 0 512 MiB, gateway 64 MiB",
        "against `other program`: 3.00x (2.00 to 3.00, 3 pairs, decode tokens/s)",
    ):
        assert figure in shown


def test_failures_and_cached_prompts_are_told() -> None:
    results = make_results()
    load = replace(results.loads[0], failures={"busy": 3}, cached_prompt_tokens=4)
    shown = list(table_lines(replace(results, loads=(load,))))
    assert "1 stream: 3 failed: busy" in shown
    assert "1 stream: 4 of 8 prompt tokens were cached" in shown


def test_columns_are_aligned() -> None:
    assert list(aligned(("a", "bc"), [("long", "1"), ("x", "234")])) == ["a      bc", "long    1", "x     234"]


def test_peak_memory(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/status").write_text("Name:\tx\nVmPeak:\t  900 kB\nVmHWM:\t   512 kB\nVmRSS:\t  100 kB\n")
    assert peak_resident_bytes(7, tmp_path) == 512 * 1024
    assert peak_resident_bytes(8, tmp_path) is None
    if Path("/proc/self/status").exists():
        peak = peak_resident_bytes(os.getpid())
        assert peak is not None and peak > 10 << 20


def test_thread_counts() -> None:
    assert [bandwidth_probe.thread_counts(cores) for cores in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]


def test_the_probe_reads_everything_once() -> None:
    values = np.ones(1 << 20, dtype=np.float32)
    assert 0.01 < bandwidth_probe.read_gb_per_s(values, 2, passes=2) < 10_000


def test_bandwidth_is_the_better_of_two() -> None:
    better = Bandwidth({1: 5.0, 2: 9.0}).better(Bandwidth({1: 6.0, 2: 7.0}))
    assert better == Bandwidth({1: 6.0, 2: 9.0})
    assert better.peak_gb_per_s == 9.0


def test_the_probe_runs_in_a_process_of_its_own() -> None:
    measured = asyncio.run(measure_bandwidth())
    assert set(measured.gb_per_s) >= {1}
    assert measured.peak_gb_per_s > 0.1


def test_the_machine_is_named() -> None:
    machine = this_machine()
    assert machine.processor and machine.cores >= 1 and machine.python.startswith("3.")


def test_compact_weights_are_named() -> None:
    plain = make_results()
    compact = replace(plain, model=replace(plain.model, compact_saved_bytes=1))
    assert not any("compact" in line for line in table_lines(plain))
    assert any("MB a token (compact)" in line for line in table_lines(compact))
    assert compact.roofline[0].label == "bfloat16 compact TP 2, 1 stream"
