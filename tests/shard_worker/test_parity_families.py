"""Tiny random models of every family: all ranks together are transformers, logits to 1e-3 and greedy ids exactly."""

import random
from copy import deepcopy
from pathlib import Path
from statistics import median

import pytest

from common.errors import CheckpointError, SettingsError
from common.manifest import read_manifest
from shard_worker.checkpoint.output_folder import OutputFolder
from shard_worker.quantization.quantize import Mode, QuantizeOptions, quantize
from tests.support.greedy import assert_matches
from tests.support.local_ranks import LocalRanks
from tests.support.reference import reference_logits
from tests.support.tiny_families import FAMILIES, TinyFamilyModel, make_family

LETTERS = random.Random(7).choices(range(259), k=200)
PROMPTS = [LETTERS[at : at + size] for at, size in ((0, 1), (3, 15), (40, 17), (100, 70))]
NUM_TOKENS = 64


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyFamilyModel:
    """One model of each family and shape."""
    return make_family(tmp_path_factory.mktemp("model"), request.param)


@pytest.mark.parametrize("tp", [1, 2, 3])
def test_all_ranks_together_are_transformers(model: TinyFamilyModel, tp: int) -> None:
    with LocalRanks(model.folder, tp) as ranks:
        answers = ranks.driver().generate(PROMPTS, NUM_TOKENS, chunk_tokens=13)
    assert len({tuple(answer.ids) for answer in answers}) > 1, "the model says the same to everything"
    for answer in answers:
        assert_matches(answer, reference_logits(model.reference, answer.known).numpy(), 1e-3)


@pytest.mark.parametrize(
    "name",
    ["qwen2", "qwen2 with late windows", "qwen3", "mistral v0.1", "phi3 128k", "llama, yarn", "baichuan2 7B"],
)
@pytest.mark.parametrize("tp", [1, 3])
def test_native_code_computes_what_it_takes(tmp_path: Path, name: str, tp: int) -> None:
    model = make_family(tmp_path, name)
    long = LETTERS[:180]  # several stretches of the native attention, most of them outside of a window
    with LocalRanks(model.folder, tp, native="on") as ranks:
        answers = ranks.driver().generate([*PROMPTS, long], 40, chunk_tokens=13)
        assert all(engine._forward.native is not None for engine in ranks.engines)
    for answer in answers:
        assert_matches(answer, reference_logits(model.reference, answer.known).numpy(), 1e-3)


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "gemma2", "gemma3", "phi4 mini"])
def test_bfloat16_is_as_close_as_transformers(tmp_path: Path, name: str) -> None:
    model = make_family(tmp_path, name)
    rounded = deepcopy(model.reference).bfloat16()
    ours, theirs = 0.0, 0.0
    with LocalRanks(model.folder, 2, dtype="bfloat16", native="off") as ranks:
        for answer in ranks.driver().generate([LETTERS[at : at + 30] for at in range(0, 150, 10)], 1):
            exact = reference_logits(model.reference, answer.prompt)[-1].numpy()
            assert answer.first_row is not None
            ours += float(abs(answer.first_row - exact).mean())
            theirs += float(abs(reference_logits(rounded, answer.prompt)[-1].numpy() - exact).mean())
    assert 0 < ours < 1.2 * theirs, ours / theirs


def test_gpu_kernels_refuse_by_name(tmp_path: Path) -> None:
    folder = make_family(tmp_path, "qwen2").folder
    with pytest.raises(SettingsError, match=r"cannot be used: .* this model has query, key and value biases"):
        LocalRanks(folder, gpu_kernels="on")


def test_the_plain_formula_agrees(model: TinyFamilyModel) -> None:
    with LocalRanks(model.folder, attention="reference") as ranks:
        (answer,) = ranks.driver().generate(PROMPTS[-1:], 8)
    assert_matches(answer, reference_logits(model.reference, answer.known).numpy(), 1e-3)


@pytest.mark.parametrize("mode", ["int8", "int4", "int4-gptq"])
def test_every_matrix_can_be_quantised(model: TinyFamilyModel, tmp_path: Path, mode: Mode) -> None:
    if mode == "int4-gptq" and model.has_experts:
        pytest.skip("refused, as tested below")
    text = tmp_path / "calibration.txt"
    text.write_text("".join(chr(97 + id % 26) for id in LETTERS) * 8)
    options = QuantizeOptions(mode, calibration=text, calibration_tokens=1024)
    with OutputFolder(tmp_path / "quantised") as output:
        quantize(model.folder, output, "tiny", options, lambda *_: None)
    whole, small = (sum(d.bytes for d in read_manifest(at)[0].files.values()) for at in (model.folder, output.path))
    assert small < 0.6 * whole
    errors = []
    with LocalRanks(output.path, 2 if mode == "int8" else 1) as ranks:
        for answer in ranks.driver().generate([LETTERS[at : at + 20] for at in range(0, 160, 20)], 1):
            exact = reference_logits(model.reference, answer.prompt)[-1].numpy()
            assert answer.first_row is not None
            errors.append(float(abs(answer.first_row - exact).mean() / abs(exact).mean()))
    assert 0 < median(errors) < (0.15 if mode == "int8" else 1.0)


def test_a_context_that_is_cut_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_family(tmp_path, "phi3 128k").folder
    assert read_manifest(folder)[0].architecture.context_length == 256
    assert "will serve 256 of its 1024 positions" in caplog.text


def test_gptq_refuses_experts_by_name(tmp_path: Path) -> None:
    model = make_family(tmp_path, "mixtral")
    text = tmp_path / "calibration.txt"
    text.write_text("abc " * 512)
    options = QuantizeOptions("int4-gptq", calibration=text, calibration_tokens=1024)
    with (
        pytest.raises(CheckpointError, match="GPTQ does not know experts"),
        OutputFolder(tmp_path / "quantised") as output,
    ):
        quantize(model.folder, output, "tiny", options, lambda *_: None)
