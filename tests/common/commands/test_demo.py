"""`tandem demo` with a fake gateway: one answer, its summary, nothing left."""

import asyncio
import functools
import re
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.commands import demo
from common.commands.request_options import SAMPLING_FIELDS
from common.commands.up_settings import UpSettings
from tests.common.commands import stand_in_up

FLAGS: dict[str, Any] = {
    **dict.fromkeys(SAMPLING_FIELDS),
    "system": None,
    "max_tokens": 3,
    "stop": (),
    "ignore_eos": False,
    "max_draft_tokens": None,
}


@pytest.fixture
def settings(tmp_path: Path) -> UpSettings:
    (tmp_path / "tandem.json").write_text("{}")
    return UpSettings(model=str(tmp_path), tp=2, listen="127.0.0.1:0")


def test_one_answer_and_its_summary(settings: UpSettings, capfd: pytest.CaptureFixture[str]) -> None:
    before = psutil.Process().children()
    assert asyncio.run(demo.run(settings, "hello", FLAGS, stand_in_up.plan)) == 0
    out, err = capfd.readouterr()
    assert out == "You said hello\n"
    assert "3 generated, ended by end_of_text" in err
    assert psutil.Process().children() == before


def test_a_rank_that_dies_ends_it_with_1(settings: UpSettings, capfd: pytest.CaptureFixture[str]) -> None:
    plan = functools.partial(stand_in_up.plan, rank_code="raise SystemExit(3)")
    before = psutil.Process().children()
    assert asyncio.run(demo.run(settings, "hello", FLAGS, plan)) == 1
    assert re.search(r"rank [01] ended unexpectedly, exit code 3", capfd.readouterr().err)
    assert psutil.Process().children() == before
