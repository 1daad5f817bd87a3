"""`tandem models`: what is listed, what fits, what is stored, and that it is quick."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.cli.main import run
from common.machine_memory import Machine
from common.manifest import MANIFEST_FILE
from common.model_store import EMBEDDED_MODEL, model_folder
from shard_worker.checkpoint.catalog import known_models
from shard_worker.checkpoint.model_list import PROCESS_BYTES, machine_holds
from shard_worker.commands import models as command
from shard_worker.sizing import RankMemory

GB = 10**9


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path))
    monkeypatch.setattr(command, "this_machine", lambda: Machine(main_bytes=20 * GB, gpu_bytes=()))


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run(["models", "--json", *arguments]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_all_are_listed_with_all_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    report = listed(capsys)
    assert [model["name"] for model in report["models"]] == list(known_models())
    by_name = {model["name"]: model for model in report["models"]}
    llama = by_name["llama-3.1-8b"]
    assert (llama["parameters"], llama["context_length"]) == (8_030_261_248, 131_072)
    bf16, int8, int4 = llama["sizes"]
    assert [size["form"] for size in llama["sizes"]] == ["bf16", "int8", "int4"]
    # 16-bit weights and 266 kB of float32 norms.
    assert bf16["stored_bytes"] == 2 * 8_030_261_248 + 2 * 65 * 4096
    # 32 layers x 8 heads x 128 x keys and values x 2 bytes x 4,096 tokens, a share of it on each of more ranks.
    assert [bf16["ranks"][tp]["kv_cache_bytes"] for tp in "1248"] == [(512 << 20) >> shift for shift in range(4)]
    assert (bf16["fits"], int8["fits"][:2], int4["fits"]) == ([1, 2, 4], [1, 2], [1, 2, 4, 8])
    assert by_name["llama-3.1-70b"]["sizes"][0]["fits"] == []
    # A sixth head is nobody's: 6 query heads among 8 ranks.
    assert "8" not in by_name["stories15m"]["sizes"][0]["ranks"]


def test_a_shorter_context_takes_less(capsys: pytest.CaptureFixture[str]) -> None:
    few, many = (listed(capsys, "qwen3-8b", "--context", tokens)["models"][0] for tokens in ("1024", "999999"))
    cache = [model["sizes"][0]["ranks"]["1"]["kv_cache_bytes"] for model in (few, many)]
    assert cache[1] == cache[0] // 1024 * 40_960, "no more than the model's own context"


def test_names_select_and_typos_are_answered(capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(capsys, "Phi-3.5", "qwen3-")["models"]
    assert {model["name"] for model in found} == {"phi-3-mini", *(n for n in known_models() if n.startswith("qwen3-"))}
    assert run(["models", "qwn3-8b"]) == 2
    assert "Did you mean qwen3-8b?" in capsys.readouterr().err
    fitting = listed(capsys, "--fitting", "llama-3.1")["models"]
    assert [model["name"] for model in fitting] == ["llama-3.1-8b"]


def test_what_is_stored_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("llama-2-7b", "Qwen/Qwen3-8B", "mine", EMBEDDED_MODEL):
        folder = model_folder(name)
        folder.mkdir(parents=True)
        (folder / MANIFEST_FILE).touch()
    model_folder("unfinished").mkdir()
    report = listed(capsys)
    stored = {model["name"]: model["stored"] for model in report["models"] if model["stored"]}
    assert stored == {"llama-2-7b": ["llama-2-7b"], "qwen3-8b": ["Qwen/Qwen3-8B"]}
    assert report["other_stored"] == [EMBEDDED_MODEL, "mine"]


def test_the_table_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "this machine: 20.0 GB of main memory free, no GPU"
    assert max(map(len, lines)) <= 86
    row = next(line.split() for line in lines if line.startswith("llama-3.1-8b"))
    assert row == ["llama-3.1-8b", "8.03", "B", "bf16", "16.1", "17.6*", "8.82*", "4.41*", "2.21"]


def test_each_rank_needs_a_gpu_where_there_are_gpus() -> None:
    memory = RankMemory(weights_bytes=9 * GB, kv_cache_bytes=GB, all_ranks_bytes=20 * GB)
    small, large = 10 * GB, 13 * GB
    assert machine_holds(Machine(None, (large, large)), memory, 2)
    assert not machine_holds(Machine(1000 * GB, (large, small)), memory, 2)
    assert machine_holds(Machine(None, (small, large)), memory, 1)
    assert not machine_holds(Machine(1000 * GB, (large,)), memory, 2)
    assert machine_holds(Machine(20 * GB + 2 * PROCESS_BYTES, ()), memory, 2)
    assert not machine_holds(Machine(20 * GB, ()), memory, 2)
    assert not machine_holds(Machine(None, ()), memory, 1)


def test_it_starts_without_what_is_slow_to_import() -> None:
    line = [sys.executable, "-X", "importtime", "-m", "common.cli.main", "models", "qwen3"]
    told = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True).stderr
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in told.splitlines()}
    assert "pydantic" in imported
    assert not imported & {"torch", "grpc", "numpy", "asyncio", "tokenizers", "safetensors"}
