"""A trimmed draft: a whole model's logits, draws and embedding, of fewer tokens; and who refuses it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from common.arrays import F32, I32, from_wire, to_wire
from common.cli.main import run
from common.errors import CheckpointError
from common.manifest import read_manifest
from draft_worker.frequent_tokens import frequent_ids
from draft_worker.text_logits import TextModel
from draft_worker.trim import trim
from gateway.server import serve
from gateway.settings import GatewaySettings
from shard_worker.checkpoint.from_checkpoint import open_stored
from shard_worker.checkpoint.output_folder import OutputFolder
from shard_worker.native import build
from shard_worker.quantization.calibration import tokenize
from shard_worker.quantization.quantize import QuantizeOptions, quantize
from tandem.shard.v1 import shard_service_pb2 as pb
from tests.support.local_ranks import LocalRanks
from tests.support.plans import PlanRow, make_plan
from tests.support.tiny_model import END_OF_TURN_ID, TinyModel, TinyShape, make_tiny_model

IDS = list(range(40, 60))
KEPT = 100


def quiet(what: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


def trimmed_to(folder: Path, place: Path, text: str | None = None) -> Path:
    """Return the folder of a copy with KEPT tokens."""
    with OutputFolder(place) as output:
        trim(folder, output, "trimmed", KEPT, text, quiet)
    return place


@pytest.fixture(scope="module", params=["tied", "untied", "int8"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint to trim."""
    folder = tmp_path_factory.mktemp("whole")
    model = make_tiny_model(folder, TinyShape(tied=request.param != "untied"))
    if request.param == "int8":
        with OutputFolder(folder / "int8") as output:
            quantize(model.folder, output, "int8", QuantizeOptions("int8"), quiet)
        return folder / "int8"
    return model.folder


@pytest.fixture(scope="module")
def trimmed(whole: Path) -> Path:
    """Its trimmed copy: what ends a text, and the lowest ids."""
    return trimmed_to(whole, whole.parent / "trimmed")


@pytest.fixture(params=["on", "off"])
def engines(request: pytest.FixtureRequest, whole: Path, trimmed: Path) -> Iterator[tuple[LocalRanks, LocalRanks]]:
    """Engines of both, with native code and without."""
    build.build()
    with LocalRanks(whole, native=request.param) as one, LocalRanks(trimmed, native=request.param) as other:
        yield one, other


def kept_ids(folder: Path) -> list[int]:
    """Return the tokens that a trimmed draft may propose."""
    model, reader = open_stored(folder, "read")
    with reader:
        (ids,) = model.tensors.blocks("head.ids")
    return [int(id) for id in ids]


def test_the_kept_tokens_are_what_ends_a_text_and_the_lowest(trimmed: Path) -> None:
    assert kept_ids(trimmed) == [*range(KEPT - 1), END_OF_TURN_ID]
    manifest, _ = read_manifest(trimmed)
    assert manifest.architecture.head_size == KEPT and not manifest.architecture.tied_embeddings
    assert "; trimmed from the checkpoint" in manifest.source


def test_logits_are_the_whole_models(whole: Path, trimmed: Path) -> None:
    models = [TextModel(folder, torch.float32, torch.device("cpu"), 64) for folder in (whole, trimmed)]
    ours, theirs = (torch.cat(list(model.logits(torch.tensor([*IDS, 250, 261])))) for model in reversed(models))
    kept = kept_ids(trimmed)
    torch.testing.assert_close(ours[:, kept], theirs[:, kept])
    assert torch.isinf(ours).sum(dim=1).tolist() == [263 - KEPT] * len(ours)


@pytest.mark.parametrize(
    "opening",
    [
        pb.SequenceOpen(sequence=1, repetition_penalty=1),
        pb.SequenceOpen(sequence=1, repetition_penalty=1, temperature=1.5, seed=7),
        pb.SequenceOpen(
            sequence=1,
            repetition_penalty=1.3,
            temperature=0.8,
            seed=8,
            prompt_length=3,
            bias_ids=I32.type(90).tobytes(),
            bias_values=F32.type(4).tobytes(),
        ),
    ],
    ids=["greedy", "sampled", "penalised"],
)
def test_draws_are_the_best_of_the_kept_tokens_with_the_whole_models_noise(
    engines: tuple[LocalRanks, LocalRanks], trimmed: Path, opening: pb.SequenceOpen
) -> None:
    row = PlanRow(1, 0, IDS, [0, 1], sampled=6)
    plan = make_plan([row], [opening], num_noised=4)
    whole, ours = (ranks.run(plan)[0] for ranks in engines)
    assert ours.noised_ids != whole.noised_ids  # else nothing was left out that mattered
    kept = kept_ids(trimmed)
    ids, scores = from_wire(ours.noised_ids, I32, (6, 4), "ids"), from_wire(ours.noised_scores, F32, (6, 4), "scores")
    for position in range(6):
        everything = from_wire(engines[0].resolve(position)[0].scores, F32, (-1,), "scores")
        best = sorted(kept, key=lambda id: (-everything[id], id))[:4]
        assert ids[position].tolist() == best
        np.testing.assert_allclose(scores[position], everything[best], rtol=1e-4, atol=1e-4)
        own = from_wire(engines[1].resolve(position)[0].scores, F32, (-1,), "scores")
        assert len(own) == 263 and np.isneginf(own).sum() == 263 - KEPT
        np.testing.assert_allclose(own[kept], everything[kept], rtol=1e-4, atol=1e-4)


def test_a_text_decides_before_the_tokenizers_order(tmp_path: Path, tiny_model: TinyModel) -> None:
    folder = trimmed_to(tiny_model.folder, tmp_path / "trimmed", text="zebra ÿÿÿ")
    model, reader = open_stored(tiny_model.folder, "read")
    reader.close()
    kept = kept_ids(folder)
    text_ids = set(tokenize("zebra ÿÿÿ", model.tokenizer))
    assert max(text_ids) > KEPT and text_ids < set(kept) and END_OF_TURN_ID in kept
    rest = set(kept) - text_ids - {END_OF_TURN_ID}
    assert rest == set(range(max(rest) + 1)) - text_ids and len(kept) == KEPT
    few = frequent_ids(model, "zebra ÿÿÿ", 3).tolist()
    assert END_OF_TURN_ID in few and set(few) - {END_OF_TURN_ID} <= set(tokenize("ÿ", model.tokenizer))


@pytest.mark.parametrize("count", [1, 263])
def test_a_count_that_is_none_or_all_is_refused(tmp_path: Path, tiny_model: TinyModel, count: int) -> None:
    with pytest.raises(CheckpointError, match="not between 2 and 262"), OutputFolder(tmp_path / "bad") as output:
        trim(tiny_model.folder, output, "bad", count, None, quiet)
    assert not (tmp_path / "bad").exists()


def test_the_command_and_who_refuses_what_it_made(
    tmp_path: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "draft"
    command = ["trim-draft", str(tiny_model.folder), "--tokens", "50", "--output", str(place)]
    assert run(command) == 0 and "tiny-top50 is ready" in capsys.readouterr().out
    assert run([*command, "--if-missing"]) == 0 and "is there already" in capsys.readouterr().out
    assert run(["trim-draft", str(place), "--tokens", "40", "--output", str(tmp_path / "again")]) == 2
    assert "trimmed already" in capsys.readouterr().err
    assert run(["calibrate-draft", str(tiny_model.folder), str(place), "--tokens", "40"]) == 2
    assert "tiny-top50 can only draft" in capsys.readouterr().err
    assert run(["serve", "shard", "--model", str(place), "--rank", "0", "--listen", f"unix:{tmp_path}/rank.sock"]) == 2
    assert "can only draft: its head was trimmed to 50 of 263 tokens" in capsys.readouterr().err
    settings = GatewaySettings(model=place, listen="127.0.0.1:0", ranks=(f"unix:{tmp_path}/rank.sock",))
    with pytest.raises(CheckpointError, match="can only draft"):
        asyncio.run(serve(settings))
    with pytest.raises(CheckpointError, match="not cut into ranks"):
        LocalRanks(place, tp=2)


def test_ids_that_are_none_are_refused(tmp_path: Path, tiny_model: TinyModel) -> None:
    folder = trimmed_to(tiny_model.folder, tmp_path / "trimmed")
    weights = folder / "model.safetensors"
    good = to_wire(kept_ids(folder), I32)
    assert weights.read_bytes().count(good) == 1
    weights.write_bytes(weights.read_bytes().replace(good, to_wire([*range(1, KEPT), 263], I32)))
    with pytest.raises(CheckpointError, match="rising ids of 263 tokens"):
        TextModel(folder, torch.float32, torch.device("cpu"), 64)
