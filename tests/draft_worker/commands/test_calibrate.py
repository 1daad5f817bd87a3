"""`tandem calibrate-draft` on tiny models, and what a draft worker does with what it stored."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from common.cli.main import run
from draft_worker.calibration_file import read_calibration
from draft_worker.commands.calibrate import calibrate_draft
from tests.support.tiny_model import TinyModel, TinyShape, make_tiny_model

QUICK = ["--tokens", "300", "--dtype", "float32", "--threads", "1"]


@pytest.fixture
def draft(tmp_path: Path) -> TinyModel:
    """A model of the same weights as the target, in a folder of its own."""
    return make_tiny_model(tmp_path)


def test_the_best_factor_is_shown_and_stored(draft: TinyModel, tiny_model: TinyModel) -> None:
    flags = ["--temperature", "1", "--temperature", "0", "--beta", "0.3", "--beta", "2"]
    result = CliRunner().invoke(calibrate_draft, [str(draft.folder), str(tiny_model.folder), *QUICK, *flags])
    assert result.exit_code == 0, result.output
    assert "T  beta 0.3    beta 1    beta 2" in result.output and "0.00     100.0     100.0     100.0" in result.output
    (pair,) = read_calibration(draft.folder).pairs
    (measured,) = pair.measured
    assert (measured.temperature, measured.beta, measured.acceptance, measured.acceptance_at_1) == (1.0, 1.0, 1.0, 1.0)
    assert pair.target == "tiny" and json.loads((draft.folder / "draft.json").read_text())["format"] == "tandem-draft"


def test_a_dry_run_stores_nothing(draft: TinyModel, tiny_model: TinyModel) -> None:
    result = CliRunner().invoke(calibrate_draft, [str(draft.folder), str(tiny_model.folder), *QUICK, "--dry-run"])
    assert result.exit_code == 0, result.output
    assert not (draft.folder / "draft.json").exists()


def test_models_of_different_vocabularies_are_refused(
    tmp_path: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_tiny_model(tmp_path, TinyShape(vocabulary_size=300))
    assert run(["calibrate-draft", str(other.folder), str(tiny_model.folder), *QUICK]) == 2
    assert "different vocabularies" in capsys.readouterr().err
