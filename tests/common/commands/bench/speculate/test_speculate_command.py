"""The command line of `tandem bench speculate`, and the clusters that it asks for."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from common.cli import main
from common.commands.bench.options import draft_lengths, temperatures
from common.commands.bench.outcome import gateway_of
from common.commands.bench.speculate.command import speculate
from common.commands.bench.speculate.outcome import ONLY_OF_OWN, own_settings, proposers_of
from common.commands.bench.speculate.prompts import NATURAL, REPETITIVE, prompts_of
from common.commands.up_settings import UpSettings


def flags(*arguments: str) -> dict[str, Any]:
    with speculate.make_context("speculate", list(arguments)) as context:
        return context.params


def settings(proposer: str, *arguments: str) -> UpSettings:
    return own_settings(gateway_of(flags(*arguments), ONLY_OF_OWN), proposer)


def test_help_imports_neither_torch_nor_grpc() -> None:
    line = [sys.executable, "-X", "importtime", "-m", "common.cli.main", "bench", "speculate", "--help"]
    result = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True)
    imported = {entry.rpartition("|")[2].strip().partition(".")[0] for entry in result.stderr.splitlines()}
    assert "--lengths" in result.stdout
    assert not imported & {"torch", "grpc", "numpy", "pydantic", "google", "asyncio"}


@pytest.mark.parametrize(
    ("text", "lengths"), [("0-8", tuple(range(9))), ("4,0,2", (0, 2, 4)), ("0, 2-4,3", (0, 2, 3, 4)), ("8", (8,))]
)
def test_lists_of_draft_lengths(text: str, lengths: tuple[int, ...]) -> None:
    assert draft_lengths(text) == lengths


@pytest.mark.parametrize("text", ["", "9", "-1", "3-2", "0-9", "two", "1-", "1.5"])
def test_wrong_draft_lengths(text: str) -> None:
    with pytest.raises(click.BadParameter):
        draft_lengths(text)


def test_lists_of_temperatures() -> None:
    assert temperatures("0, 0.7,1.0,0") == (0.0, 0.7, 1.0)


@pytest.mark.parametrize("text", ["", "warm", "-0.1", "inf", "nan"])
def test_wrong_temperatures(text: str) -> None:
    with pytest.raises(click.BadParameter):
        temperatures(text)


def test_each_proposer_has_a_cluster_of_its_own_kind() -> None:
    given = ("--model", "m", "--draft", "d", "--draft-worker", "threads=1", "--gateway", "max_queued_tokens=9")
    common = ("max_queued_tokens=9", "draft_length=fixed")
    none, ngram, worker = (settings(proposer, *given) for proposer in ("none", "ngram", "worker"))
    assert (none.draft, none.draft_worker, none.gateway) == ("", (), common)
    assert (ngram.draft, ngram.drafts, ngram.draft_worker, ngram.gateway) == ("ngram", 0, (), common)
    assert (worker.draft, worker.drafts, worker.draft_worker) == ("d", 1, ("threads=1",))
    assert worker.gateway == (*common, "ngram=off")
    assert {one.listen for one in (none, ngram, worker)} == {"127.0.0.1:0"}


def test_who_drafts_unless_told() -> None:
    assert proposers_of(flags()) == ("none", "ngram")
    assert proposers_of(flags("--draft", "d")) == ("none", "ngram", "worker")
    assert proposers_of(flags("--proposer", "ngram", "--proposer", "ngram")) == ("ngram",)
    assert proposers_of(flags("--address", "x:1")) == ("as served",)
    with pytest.raises(click.UsageError, match="--proposer worker needs --draft MODEL"):
        proposers_of(flags("--proposer", "worker"))


def test_a_running_gateway_cannot_be_set() -> None:
    late = ("--draft", "d", "--draft-worker", "a=b", "--proposer", "ngram", "--model", "m")
    with pytest.raises(click.UsageError, match="--model, --draft, --draft-worker, --proposer: the gateway at x:1"):
        gateway_of(flags("--address", "x:1", *late), ONLY_OF_OWN)


def test_flags_before_the_sub_command_are_not_lost_silently(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["bench", "--tp", "2", "speculate"]) == 2
    assert "speculate takes its own flags, after its name" in capsys.readouterr().err


def test_prompts(tmp_path: Path) -> None:
    assert prompts_of("natural", ()) == NATURAL and prompts_of("repetitive", ()) == REPETITIVE
    (tmp_path / "a").write_text("one")
    assert prompts_of("natural", (tmp_path / "a",)) == ("one",)
    (tmp_path / "empty").write_text(" \n")
    with pytest.raises(click.ClickException, match="an empty prompt"):
        prompts_of("natural", (tmp_path / "empty",))
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(click.ClickException, match="bytes"):
        prompts_of("natural", (tmp_path / "bytes",))


def test_nobody_at_the_address(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["bench", "speculate", "--address", "127.0.0.1:1"]) == 1
    assert "no server answers at 127.0.0.1:1" in capsys.readouterr().err
