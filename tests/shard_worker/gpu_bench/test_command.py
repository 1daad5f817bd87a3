"""`tandem bench-gpu` from end to end on a CPU, with a tiny shape and a rival that prints gpt-fast's line."""

import json
import subprocess
from pathlib import Path

from tests.support.cluster import command_line, environment

MODEL_PY = """
import torch

class Transformer(torch.nn.Module):
    @classmethod
    def from_name(cls, name):
        made = cls()
        made.name, made.output = name, torch.nn.Linear(8, 8, bias=False)
        return made
"""
GENERATE_PY = """
from tokenizer import get_tokenizer

def main(checkpoint_path, device, num_samples, max_new_tokens, batch_size, compile):
    assert checkpoint_path.is_file() and not compile
    model = _load_model(checkpoint_path, device, None, False)
    assert model.output.weight.abs().sum() > 0 and get_tokenizer(None, None).encode("a")
    print(f"Average tokens/sec: {max_new_tokens:.2f}")
"""


def run(*arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    line = command_line("bench-gpu", *arguments)
    return subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=timeout_s, check=False)


def test_a_whole_run(tmp_path: Path) -> None:
    rival = tmp_path / "gpt-fast"
    rival.mkdir()
    (rival / "model.py").write_text(MODEL_PY)
    (rival / "quantize.py").write_text("")
    (rival / "generate.py").write_text(GENERATE_PY)
    json_file, markdown_file = tmp_path / "run.json", tmp_path / "run.md"
    done = run(
        *("--device", "cpu", "--shapes", "tiny", "--modes", "bf16", "--batch", "1", "--batch", "2", "--tokens", "6"),
        *("--stages", "copy,engine,served", "--json", str(json_file), "--markdown", str(markdown_file)),
    )
    assert done.returncode == 0, done.stderr
    lines = json.loads(json_file.read_text())["lines"]
    assert [(line["shape"], line["mode"], line["batch"]) for line in lines] == [("tiny", "bf16", n) for n in (1, 2)]
    for line in lines:
        assert line["decode_tokens_per_s"] > 0 and line["served_tokens_per_s"] > 0 and 0 < line["mbu"] < 1
        # The steps' rate and time are the same measurement.
        assert abs(line["decode_tokens_per_s"] * line["step_ms"] / 1e3 - line["batch"]) < 1e-6
        assert line["gpt_fast_tokens_per_s"] is None
    assert "| tiny | bf16 | 2 |" in markdown_file.read_text()

    done = run(*("--device", "cpu", "--shapes", "stories15m", "--modes", "bf16", "--batch", "1", "--tokens", "6"),
               *("--stages", "gpt-fast", "--gpt-fast", str(rival), "--json", str(json_file)))  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = json.loads(json_file.read_text())["lines"]
    assert line["gpt_fast_tokens_per_s"] == 6


def test_a_failed_stage_is_told_and_does_not_end_the_run() -> None:
    done = run("--device", "cuda:99", "--shapes", "tiny", "--modes", "int8", "--stages", "copy,engine", "--tokens", "6")
    assert done.returncode == 1
    assert "| copy | exit code 1: device 'cuda:99' cannot be used" in done.stdout
    assert "| engine tiny int8 | exit code 1: device 'cuda:99' cannot be used" in done.stdout


def test_wrong_flags() -> None:
    done = run("--shapes", "huge")
    assert done.returncode == 2 and "no shape 'huge' is known" in done.stderr
    done = run("--modes", "int3")
    assert done.returncode == 2 and "'int3' is none of bf16, int8, int4" in done.stderr
