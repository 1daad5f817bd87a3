"""A screened draft: the logits that it reads are the head's own, those that matter are among them, and who refuses."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from common.arrays import F32, I32, from_wire
from common.cli.main import run
from common.errors import CheckpointError
from draft_worker.load_model import load_model_proposer
from draft_worker.own_words import own_words
from draft_worker.screen import Options, best_screen, make_screen, share_found
from draft_worker.screen_file import FORMAT, SCREEN_FILE, read_screen, write_screen
from draft_worker.settings import DraftSettings
from shard_worker.checkpoint.output_folder import OutputFolder
from shard_worker.engine import Engine
from shard_worker.model.head_screen import HeadScreen
from shard_worker.model.linear import FloatLinear, Int8Linear
from shard_worker.native import build
from shard_worker.quantization.quantize import QuantizeOptions, quantize
from shard_worker.settings import ShardSettings
from tandem.shard.v1 import shard_service_pb2 as pb
from tests.support.plans import PlanRow, make_plan
from tests.support.tiny_model import TinyModel, TinyShape, make_tiny_model

Dtype = Literal["float32", "bfloat16"]
IDS = list(range(40, 60))
VOCABULARY, PANEL, PANELS, RANK = 263, 16, 3, 32
GREEDY = pb.SequenceOpen(sequence=1, repetition_penalty=1)
SAMPLED = pb.SequenceOpen(sequence=1, repetition_penalty=1, temperature=1.5, seed=7)
PENALISED = pb.SequenceOpen(sequence=1, repetition_penalty=1.3, prompt_length=3)


def quiet(what: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


@pytest.fixture(scope="module", params=["float32", "bfloat16", "int8", "int4", "untied"])
def draft(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dtype]:
    """A checkpoint with a screen, and the type that it computes in."""
    folder = tmp_path_factory.mktemp("draft")
    build.build()
    whole = make_tiny_model(folder, TinyShape(head_dim=32, tied=request.param != "untied")).folder
    if request.param in ("int8", "int4"):
        with OutputFolder(folder / "quantised") as output:
            quantize(whole, output, "quantised", QuantizeOptions(request.param, group_size=32), quiet)
        whole = folder / "quantised"
    made = make_screen(whole, Options(RANK, PANELS, num_texts=4, text_tokens=128), quiet)
    write_screen(whole, made.screen, made.checkpoint_hash)
    return whole, "float32" if request.param == "float32" else "bfloat16"


@pytest.fixture
def engines(draft: tuple[Path, Dtype]) -> Iterator[tuple[Engine, Engine]]:
    """Engines of the draft without its screen, and with it."""
    folder, dtype = draft
    settings = ShardSettings(
        model=folder, rank=0, tp=1, dtype=dtype, threads=2, kv_cache_tokens=512, block_size_tokens=16, native="on"
    )
    yield Engine.load(settings), Engine.load(settings, read_screen(folder))


def raw_logits(engine: Engine, position: int) -> np.ndarray:
    """Return what a sampled position of the last step came to."""
    return from_wire(engine.resolve(position).raw, F32, (VOCABULARY,), "raw")


@pytest.mark.parametrize("opening", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_what_is_read_of_the_head_is_exact_and_the_rest_out_of_reach(
    engines: tuple[Engine, Engine], opening: pb.SequenceOpen
) -> None:
    plan = make_plan([PlanRow(1, 0, IDS, [0, 1, 2], sampled=1, continued=3)], [opening], num_noised=4)
    whole, ours = (engine.step(plan, 0) for engine in engines)
    fed = from_wire(ours.noised_ids, I32, (4, 4), "ids")[:, 0]
    same = fed == from_wire(whole.noised_ids, I32, (4, 4), "ids")[:, 0]
    for position in range(4):
        mine = raw_logits(engines[1], position)
        read = np.isfinite(mine)
        panels = np.flatnonzero(read) // PANEL
        assert len(set(panels.tolist())) == PANELS
        assert all(read[panel * PANEL : (panel + 1) * PANEL].all() for panel in panels)
        assert np.isneginf(mine[~read]).all()
        if position == 0 or same[:position].all():  # after the same ids
            np.testing.assert_array_equal(mine[read], raw_logits(engines[0], position)[read])
    assert same[0] or opening is SAMPLED


def test_where_it_saves_nothing_the_whole_head_is_read(engines: tuple[Engine, Engine]) -> None:
    rows = [PlanRow(number, 0, IDS[number:], [2 * number, 2 * number + 1], sampled=1) for number in (1, 2, 3)]
    openings = [pb.SequenceOpen(sequence=number, repetition_penalty=1) for number in (1, 2, 3)]
    results = [engine.step(make_plan(rows, openings), 0) for engine in engines]
    assert results[0].noised_scores == results[1].noised_scores
    assert all(np.isfinite(raw_logits(engines[1], row)).all() for row in range(3))


def test_penalties_see_all_tokens(engines: tuple[Engine, Engine]) -> None:
    plan = make_plan([PlanRow(1, 0, IDS, [0, 1], sampled=1)], [PENALISED])
    results = [engine.step(plan, 0) for engine in engines]
    assert results[0].noised_scores == results[1].noised_scores
    assert np.isfinite(raw_logits(engines[1], 0)).all()


def test_rough_logits_that_are_no_numbers_leave_some_panels_to_read(draft: tuple[Path, Dtype]) -> None:
    screen = read_screen(draft[0])
    assert screen is not None
    settings = ShardSettings(model=draft[0], rank=0, tp=1, dtype=draft[1], threads=1, kv_cache_tokens=512, native="on")
    with torch.no_grad():
        screen.down.weight.fill_(torch.nan)
    engine = Engine.load(settings, screen)
    result = engine.step(make_plan([PlanRow(1, 0, IDS, [0, 1], sampled=1)], [GREEDY]), 0)
    assert np.isfinite(raw_logits(engine, 0)).sum() > 0  # some panels or other, read truly
    assert np.isfinite(from_wire(result.raw_lse, F32, (1,), "lse")).all()


def test_the_best_screen_is_for_the_states_that_come() -> None:
    torch.manual_seed(0)
    head = FloatLinear(torch.randn(1024, 96))
    # States lie near 24 directions, which the head knows nothing of.
    states_nK = torch.randn(2048, 24) @ torch.randn(24, 96) + 0.05 * torch.randn(2048, 96)
    screen = best_screen(states_nK[::2], head, 32, 4)
    assert share_found(screen, states_nK[1::2], head) > 0.97
    own = torch.linalg.svd(head.weight, full_matrices=False).Vh[:32]
    q_Vr, scale_V = (head.weight @ own.T * 16).round().to(torch.int8), torch.full((1024,), 1 / 16)
    plain = HeadScreen(FloatLinear(own.bfloat16()), Int8Linear(q_Vr, scale_V), 4)
    assert share_found(plain, states_nK[1::2], head) < 0.8


def test_its_own_words_are_the_same_each_time(tiny_model: TinyModel) -> None:
    texts = [own_words(tiny_model.folder, 3, 40, 1, quiet) for _ in range(2)]
    assert texts[0].shape == (3, 40) and torch.equal(*texts)
    assert len({tuple(text) for text in texts[0].tolist()}) == 3
    assert texts[0].min() >= 0 and texts[0].max() < VOCABULARY
    assert own_words(tiny_model.folder, 1, 5000, 1, quiet).shape == (1, 1024)


def test_the_command_stores_what_a_draft_worker_finds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_tiny_model(tmp_path).folder
    command = ["screen-draft", str(folder), "--panels", str(PANELS), "--rank", str(RANK)]
    assert run(command) == 0
    assert "of the draft's own best tokens it finds" in (said := capsys.readouterr().out) and SCREEN_FILE in said
    assert run([*command, "--if-missing"]) == 0 and "has a screen already" in capsys.readouterr().out
    with caplog.at_level(logging.INFO):
        load_model_proposer(DraftSettings(model=folder, threads=1, kv_cache_tokens=256), folder)
    assert "a screen of rank 32 finds where to read the head" in caplog.text
    for wrong, why in ((["--rank", "48"], "no multiple of 32"), (["--rank", "64"], "below the hidden size, 42")):
        assert run([*command, *wrong]) == 2 and why in capsys.readouterr().err
    assert run([*command, "--panels", "9"]) == 2
    assert "9 panels of 16 rows are half of 263 tokens or more" in capsys.readouterr().err
    trimmed = tmp_path / "trimmed"
    assert run(["trim-draft", str(folder), "--tokens", "50", "--output", str(trimmed)]) == 0
    capsys.readouterr()
    assert run(["screen-draft", str(trimmed)]) == 2 and "is trimmed" in capsys.readouterr().err


def test_a_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path).folder
    path = folder / SCREEN_FILE
    assert read_screen(folder) is None
    made = make_screen(folder, Options(RANK, PANELS, num_texts=2, text_tokens=64), quiet)
    write_screen(folder, made.screen, made.checkpoint_hash)
    good = {name: tensor.clone() for name, tensor in load_file(path).items()}  # what it maps is overwritten below
    about = {"format": FORMAT, "format_version": "1", "checkpoint": made.checkpoint_hash, "num_panels": str(PANELS)}
    assert read_screen(folder) is not None and not path.with_suffix(".new").exists()

    def refused(why: str, tensors: dict[str, torch.Tensor] | None = None, **changes: str) -> None:
        path.write_bytes(save(good | (tensors or {}), about | changes))
        with pytest.raises(CheckpointError, match=why):
            read_screen(folder)

    refused("not a head screen of version 1", format_version="2")
    refused("made for other weights", checkpoint="0" * 64)
    for count in ("", "0", "17", "-1", "9" * 40, "0000000019"):
        refused("does not fit tiny", num_panels=count)
    refused("does not fit tiny", {"down": good["down"][:0].contiguous()})
    refused("should be", {"down": good["down"].float()})
    refused("should be", {"down": good["down"][:, :-1].contiguous()})
    refused("should be", {"up.q": good["up.q"][:-1].contiguous()})
    refused("should be", {"up.scale": good["up.scale"][:-1].contiguous()})
    refused("not finite", {"up.scale": torch.full((VOCABULARY,), torch.inf)})
    path.write_bytes(save({"down": good["down"]}, about))
    with pytest.raises(CheckpointError, match="not a valid head screen"):
        read_screen(folder)
    path.write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="not a valid head screen"):
        read_screen(folder)
