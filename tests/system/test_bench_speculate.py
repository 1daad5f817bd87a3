"""`tandem bench speculate` from end to end, on a tiny model of random weights that drafts for itself."""

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.support.cluster import Cluster, command_line, environment
from tests.support.tiny_model import TinyModel


def bench(json_file: Path, **flags: object) -> tuple[str, list[dict[str, Any]]]:
    """Return the table and the cells of one run with answers of up to 24 tokens."""
    line = command_line("bench", "speculate", max_tokens=24, json=json_file, **flags)
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(json_file.read_text())["cells"]


def test_clusters_of_its_own(tiny_model: TinyModel, tmp_path: Path) -> None:
    table, cells = bench(
        tmp_path / "run.json", model=tiny_model.folder, draft=tiny_model.folder, threads=1, dtype="float32",
        shard="kv_cache_tokens=4096", draft_worker=("kv_cache_tokens=4096", "dtype=float32"), lengths="0,3",
        temperature="0,0.8", text="repetitive",
    )  # fmt: skip
    assert [(c["proposer"], c["temperature"], c["max_draft_tokens"]) for c in cells] == [
        ("none", 0, 0), ("none", 0.8, 0),
        ("ngram", 0, 0), ("ngram", 0, 3), ("ngram", 0.8, 0), ("ngram", 0.8, 3),
        ("worker", 0, 0), ("worker", 0, 3), ("worker", 0.8, 0), ("worker", 0.8, 3),
    ]  # fmt: skip
    for cell in cells:
        assert cell["requests"] == 4 and not cell["failures"]
        assert cell["tokens_per_s"] > 0 and cell["predicted_tokens_per_s"] > 0
        # The same streams whoever drafts, and however much.
        assert cell["tokens"] == next(c["tokens"] for c in cells if c["temperature"] == cell["temperature"])
        if cell["max_draft_tokens"] == 0:
            assert (cell["rounds"], cell["acceptance"], cell["tokens_per_pass"]) == (0, None, 1.0)
    for cell in cells[-1], cells[-3]:
        # A copy of the target with the same noise: what is drafted is accepted, but for what is cut off at the end.
        assert cell["ngram_drafted"] == 0 and cell["rounds"] > 0
        assert cell["acceptance"] > 0.9 and cell["tokens_per_pass"] > 1
        assert len(cell["acceptance_at"]) == 3
    assert table.count("\nworker") == 4 and "formula" in table


def test_a_running_gateway(tiny_cluster: Cluster, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("abc abc abc")
    flags = {"lengths": "0,2", "temperature": "0", "prompt_file": prompt, "repeat": 2}
    table, cells = bench(tmp_path / "run.json", address=tiny_cluster.address, **flags)
    assert [(c["proposer"], c["max_draft_tokens"], c["requests"]) for c in cells] == [
        ("as served", 0, 2),
        ("as served", 2, 2),
    ]
    assert all(cell["rounds"] == 0 for cell in cells)  # it has no drafts
    assert "text from files: 1 prompts x 2" in table
