"""`tandem eval` against the harness's own `hf` backend, on the same weights and the same tasks, all from disk.

Both sides are processes of their own and run side by side; the reference reads the checkpoint by transformers.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import ROOT, Cluster, command_line, environment

TASKS = "tests/system/eval_tasks"
PLAIN = "tandem_choice,tandem_answer,tandem_text"
CHAT = "tandem_choice,tandem_answer"
REFERENCE = ROOT / "tests/support/harness_on_transformers.py"
BEGIN_ID = 1  # the token that transformers' tokenizer of this model calls its begin of text
TIMEOUT_S = 400
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def found(
    smollm_cluster: Cluster, embedded_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Any, Any]]:
    """By "plain" and "chat": what the service got, and what transformers got."""
    folder = tmp_path_factory.mktemp("eval")
    ours = {"plain": folder / "plain.json", "chat": folder / "chat.json"}
    theirs = folder / "reference.json"
    common: dict[str, Any] = {"include_path": TASKS, "address": smollm_cluster.address, "log_samples": True}
    commands = [
        command_line("eval", tasks=PLAIN, json=ours["plain"], prefix_token_id=BEGIN_ID, **common),
        command_line("eval", tasks=CHAT, json=ours["chat"], apply_chat_template=True, **common),
        [
            sys.executable,
            str(REFERENCE),
            str(embedded_model),
            str(TASKS),
            f"plain:{PLAIN}",
            f"chat:{CHAT}",
            str(theirs),
        ],
    ]
    run_all(commands, folder)
    reference = json.loads(theirs.read_text())
    return {name: (json.loads(file.read_text()), reference[name]) for name, file in ours.items()}


def run_all(commands: list[list[str]], folder: Path) -> None:
    """Run all at once, each with caches of its own; fail with what one says that fails."""
    running = []
    for index, command in enumerate(commands):
        offline = {"HF_HOME": str(folder / f"cache-{index}"), "HF_HUB_OFFLINE": "1"}
        with (folder / f"log-{index}").open("wb") as log:
            running.append(
                subprocess.Popen(command, cwd=ROOT, env=environment() | offline, stdout=log, stderr=subprocess.STDOUT)
            )
    try:
        codes = [process.wait(TIMEOUT_S) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    logs = [(folder / f"log-{index}").read_text(errors="replace") for index in range(len(commands))]
    assert codes == [0, 0, 0], "\n".join(logs)
    assert "exact_match" in logs[0] and "tandem_answer" in logs[0], logs[0]


def answers(sample: dict[str, Any]) -> list[Any]:
    """What the model answered to one document: texts, or pairs of log-likelihood and is_greedy, or sums."""
    flat = [answer for (answer,) in sample["resps"]]
    # A backend may give the log-likelihood of a whole text as a number or as a tuple of one.
    return [answer[0] if isinstance(answer, list) and len(answer) == 1 else answer for answer in flat]


@pytest.mark.parametrize("mode", ["plain", "chat"])
def test_every_figure_is_that_of_transformers(found: dict[str, tuple[Any, Any]], mode: str) -> None:
    ours, theirs = found[mode]
    assert ours["results"].keys() == theirs["results"].keys()
    for task, figures in theirs["results"].items():
        numbers = {name: value for name, value in figures.items() if isinstance(value, float)}
        assert numbers
        assert {name: ours["results"][task][name] for name in numbers} == pytest.approx(numbers, rel=TOLERANCE)


@pytest.mark.parametrize("mode", ["plain", "chat"])
def test_so_is_every_answer(found: dict[str, tuple[Any, Any]], mode: str) -> None:
    ours, theirs = found[mode]
    documents = 0
    for task, samples in theirs["samples"].items():
        for mine, its in zip(ours["samples"][task], samples, strict=True):
            documents += 1
            for answer, expected in zip(answers(mine), answers(its), strict=True):
                if isinstance(expected, list):
                    assert answer == [pytest.approx(expected[0], abs=TOLERANCE), expected[1]]
                elif isinstance(expected, float):
                    assert answer == pytest.approx(expected, abs=TOLERANCE)
                else:
                    assert answer == expected
    assert documents == (36 if mode == "plain" else 24)


def test_the_model_knows_something(found: dict[str, tuple[Any, Any]]) -> None:
    """Both sides read one checkpoint and one task: a fault common to both would show here."""
    results = found["plain"][0]["results"]
    assert results["tandem_choice"]["acc,none"] > 0.4
    assert results["tandem_answer"]["exact_match,stripped"] > 0.4
    assert found["plain"][0]["model"]["name"] == "smollm2-135m-instruct"
