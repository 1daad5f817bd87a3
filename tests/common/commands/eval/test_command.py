"""`tandem eval` where nothing can be evaluated: one line, and nothing slow imported for it."""

import sys

import pytest

from common.cli.main import run


def test_what_goes_wrong_before_any_work(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code, reason in (
        (["--tasks", "a", "--log-samples"], 2, "--log-samples needs --json FILE"),
        (["--tasks", "a", "--limit", "0"], 2, "--limit"),
        (["--tasks", "a", "--address", "127.0.0.1:1"], 1, "no server answers at 127.0.0.1:1"),
        ([], 2, "--tasks"),
    ):
        assert run(["eval", *arguments]) == code
        assert reason in capsys.readouterr().err
    assert "lm_eval" not in sys.modules
