"""Quantising a whole checkpoint: what is written, what GPTQ gains, and the command."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from common.cli.main import run
from common.errors import CheckpointError
from common.manifest import read_manifest
from common.model_store import model_folder
from shard_worker.checkpoint.from_checkpoint import open_checkpoint
from shard_worker.checkpoint.output_folder import OutputFolder
from shard_worker.checkpoint.reader import CheckpointReader
from shard_worker.checkpoint.source import Tensors
from shard_worker.checkpoint.weight_shapes import Dtype, weight_shapes
from shard_worker.checkpoint.writer import write_checkpoint
from shard_worker.quantization.formats import quantize_int4, quantize_int8
from shard_worker.quantization.quantize import Mode, QuantizeOptions, quantize
from tests.support.local_ranks import LocalRanks
from tests.support.reference import load_reference, reference_logits
from tests.support.tiny_model import TinyModel, TinyShape, byte_tokenizer, make_tiny_model

SHAPE = TinyShape(intermediate_size=101, head_dim=16)
DOWN = "layers.1.feed_forward.down.weight"


def sums(numbers: range) -> str:
    """Return a text of few words."""
    return " ".join(f"{number} plus {number} is {2 * number}, and so on." for number in numbers)


class Broken:
    """Tensors of which the last layer's DOWN is not finite."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors

    def blocks(self, name: str) -> Iterator[torch.Tensor]:
        for block in self._tensors.blocks(name):
            yield block * torch.nan if name == DOWN else block


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return make_tiny_model(tmp_path_factory.mktemp("model"), SHAPE)


def made(model: TinyModel, folder: Path, mode: Mode, group_size: int = 32, **options: Any) -> Path:
    """Quantise `model` into `folder` and return it."""
    told: list[tuple[str, int, int]] = []
    with OutputFolder(folder) as output:
        quantize(
            model.folder,
            output,
            "made",
            QuantizeOptions(mode, group_size, **options),
            lambda *progress: told.append(progress),
        )
    ends = {stage: done == total for stage, done, total in told}
    assert ends == dict.fromkeys(["solving layers"] * (mode == "int4-gptq") + ["quantizing", "verifying"], True)
    return folder


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_every_matrix_is_what_its_formula_makes_of_it(model: TinyModel, tmp_path: Path, mode: Mode) -> None:
    with CheckpointReader(model.folder) as plain, CheckpointReader(made(model, tmp_path / "q", mode)) as reader:
        for name, shape in weight_shapes(plain.manifest.architecture).items():
            w = plain.read(name)
            if len(shape) == 1:
                assert torch.equal(reader.read(name), w)
            elif mode == "int8" or not name.startswith("layers."):
                for part, expected in zip(("q", "scale"), quantize_int8(w), strict=True):
                    assert torch.equal(reader.read(f"{name}.{part}"), expected), name
            else:
                group_size = 16 if "attention.output" in name else 32  # heads are 16 wide
                for part, expected in zip(("q", "scale", "zero"), quantize_int4(w, group_size), strict=True):
                    assert torch.equal(reader.read(f"{name}.{part}"), expected), name
        reader.finish()


def test_the_manifest_states_the_format(model: TinyModel, tmp_path: Path) -> None:
    plain, hash = read_manifest(model.folder)
    manifest, _ = read_manifest(made(model, tmp_path / "q", "int4-gptq", 64, calibration_tokens=64))
    assert manifest.quantization.model_dump() == {
        "mode": "int4",
        "method": "gptq",
        "group_size": 64,
        "head_group_size": 16,
        "embedding": "int8",
        "layout_version": 1,
    }
    assert manifest.name == "made"
    assert manifest.source == f"{plain.source}; quantised from the checkpoint {hash}"
    same = ("architecture", "dtype", "tokenizer", "end_of_text_ids", "chat_template")
    assert [getattr(manifest, name) for name in same] == [getattr(plain, name) for name in same]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_checkpoints_can_be_quantised(tmp_path: Path, dtype: Dtype) -> None:
    model = make_tiny_model(tmp_path, SHAPE, dtype)
    with CheckpointReader(model.folder) as plain, CheckpointReader(made(model, tmp_path / "q", "int4")) as reader:
        expected = quantize_int4(plain.read(DOWN), 32)
        assert torch.equal(reader.read(f"{DOWN}.q"), expected[0])


@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_gptq_changes_the_answers_less_than_rounding(model: TinyModel, tmp_path: Path, group_size: int) -> None:
    (tmp_path / "text.txt").write_text(sums(range(300)))
    unseen = byte_tokenizer().encode(sums(range(500, 520))).ids[:400]
    plain = reference_logits(model.reference, unseen)
    options = {"calibration": tmp_path / "text.txt", "calibration_tokens": 8192}
    errors = []
    for folder in (
        made(model, tmp_path / "nearest", "int4", group_size),
        made(model, tmp_path / "gptq", "int4-gptq", group_size, **options),
    ):
        difference = reference_logits(load_reference(folder), unseen) - plain
        errors.append(difference.pow(2).mean().item())
    assert 0 < errors[1] < 0.6 * errors[0]


def test_a_quantised_model_is_not_quantised_again(model: TinyModel, tmp_path: Path) -> None:
    folder = made(model, tmp_path / "q", "int8")
    with pytest.raises(CheckpointError, match="is int8 already"):
        made(replace(model, folder=folder), tmp_path / "again", "int4")
    assert {path.name for path in tmp_path.iterdir()} == {"q"}


@pytest.mark.parametrize("mode", ["int8", "int4", "int4-gptq"])
def test_a_weight_that_is_not_finite_is_named_and_leaves_nothing(model: TinyModel, tmp_path: Path, mode: Mode) -> None:
    plain, reader = open_checkpoint(model.folder)
    with reader, OutputFolder(tmp_path / "broken") as output:
        write_checkpoint(replace(plain, tensors=Broken(plain.tensors)), output, "broken", "float32", lambda *_: None)
    place = "layer 1" if mode == "int4-gptq" else DOWN
    with pytest.raises(CheckpointError, match=f"{place}: a weight .*is not a finite number"):
        made(TinyModel(tmp_path / "broken", model.reference), tmp_path / "q", mode)
    assert {path.name for path in tmp_path.iterdir()} == {"broken"}


def test_the_command_puts_a_model_into_the_store(
    model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path))
    model_folder("tiny").parent.mkdir()
    model_folder("tiny").symlink_to(model.folder)
    assert run(["quantize", "tiny", "--mode", "int8"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"tiny-int8 is ready: {model_folder('tiny-int8')}\n"
    assert shown.err.split() == ["quantizing", "verifying"]
    assert run(["quantize", str(model.folder), "--mode", "int4", "--group-size", "64"]) == 0
    assert run(["quantize", "tiny", "--mode", "int4-gptq", "--calibration-tokens", "64"]) == 0
    names = [read_manifest(model_folder(f"tiny-{mode}"))[0].name for mode in ("int8", "int4-g64", "int4-gptq")]
    assert names == ["tiny-int8", "tiny-int4-g64", "tiny-int4-gptq"]
    for mode in ("int8", "int4-g64", "int4-gptq"):
        with LocalRanks(model_folder(f"tiny-{mode}"), 2) as ranks:
            assert len(ranks.driver().generate([[1, 2, 3]], 4)[0].ids) == 4
    assert run(["quantize", "tiny", "--mode", "int8"]) == 2
    assert "--force replaces it" in capsys.readouterr().err
    assert run(["quantize", "tiny", "--mode", "int8", "--force", "--embedding", "none"]) == 0
    assert read_manifest(model_folder("tiny-int8"))[0].quantization.embedding == "none"


def test_the_command_says_what_is_wrong(
    model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path / "store"))
    folder, output = str(model.folder), ["--output", str(tmp_path / "out")]
    (tmp_path / "short.txt").write_text("too short")
    gptq = ["--mode", "int4-gptq", "--calibration", str(tmp_path / "short.txt")]
    for arguments, reason in (
        ([folder, *output], "--mode"),
        ([folder, "--mode", "int4", "--group-size", "48", *output], "48"),
        (["absent", "--mode", "int8", *output], "absent"),
        ([folder, "--mode", "int4-gptq", "--device", "tpu9", *output], "tpu9"),
        ([folder, "--mode", "int8", "--device", "cpu", *output], "--device is of --mode int4-gptq"),
        ([folder, "--mode", "int8", "--group-size", "32", *output], "--group-size is of --mode int4 and int4-gptq"),
        ([folder, "--mode", "int4", *gptq[2:], *output], "--calibration is of --mode int4-gptq"),
        ([folder, *gptq, *output], "a calibration of 9 tokens is too short"),
    ):
        assert run(["quantize", *arguments]) == 2
        assert reason in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"short.txt"}
