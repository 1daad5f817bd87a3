"""Quantised models: all ranks together are the formula of the format, run by transformers."""

import random
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.errors import CheckpointError
from shard_worker.checkpoint.output_folder import OutputFolder
from shard_worker.quantization.quantize import Mode, QuantizeOptions, quantize
from tests.support.greedy import assert_matches
from tests.support.local_ranks import LocalRanks
from tests.support.reference import load_reference, reference_logits
from tests.support.tiny_model import TinyShape, make_tiny_model

LETTERS = random.Random(3).choices(range(259), k=120)
PROMPTS = [LETTERS[at : at + size] for at, size in ((0, 1), (3, 17), (20, 40), (60, 60))]
NUM_TOKENS = 6

# Feed-forward columns in four groups of 32 or more, the last one partial and of odd size.
TINY = TinyShape(intermediate_size=101)
SHAPES = {
    "6 heads, 3 KV": TINY,
    "9 heads, 3 KV, tied": replace(TINY, query_heads=9, kv_heads=3, tied=True),
    "4 heads of 12, 1 KV": replace(TINY, query_heads=4, kv_heads=1, head_dim=12),
    "5 heads of 64, 5 KV": replace(TINY, query_heads=5, kv_heads=5, head_dim=64, tied=True),
}


def quantized(folder: Path, shape: TinyShape, options: QuantizeOptions) -> Path:
    """Return the folder of a quantised tiny model."""
    model = make_tiny_model(folder, shape)
    with OutputFolder(folder / "quantized") as output:
        quantize(model.folder, output, "tiny-quantized", options, lambda *_: None)
    return folder / "quantized"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_all_ranks_together_are_the_formula(tmp_path: Path, shape: str, mode: Mode) -> None:
    folder = quantized(tmp_path, SHAPES[shape], QuantizeOptions(mode))
    reference = load_reference(folder)
    expected = {}
    for tp in (1, 2, 3, 4):
        with LocalRanks(folder, tp) as ranks:
            assert ranks.info.quantization == mode
            answers = ranks.driver().generate(PROMPTS, NUM_TOKENS, chunk_tokens=13)
        for answer in answers:
            known = tuple(answer.known)
            if known not in expected:
                expected[known] = reference_logits(reference, answer.known).numpy()
            assert_matches(answer, expected[known], 1e-4)
    assert len(expected) == len(PROMPTS), "the ranks do not agree"


@pytest.mark.parametrize(("group_size", "embedding"), [(64, "int8"), (64, "none"), (256, "none")])
def test_groups_and_a_plain_embedding(tmp_path: Path, group_size: int, embedding: str) -> None:
    shape = replace(TINY, intermediate_size=450, tied=embedding == "none")
    options = QuantizeOptions("int4", group_size, embedding="int8" if embedding == "int8" else "none")
    folder = quantized(tmp_path, shape, options)
    reference = load_reference(folder)
    for tp in (1, 2):
        with LocalRanks(folder, tp) as ranks:
            for answer in ranks.driver().generate(PROMPTS[:2], NUM_TOKENS):
                assert_matches(answer, reference_logits(reference, answer.known).numpy(), 1e-4)


# int8 rounds an output twice, before and after its scale; transformers rounds the weights instead. Native code may take
# activations as 8-bit integers, in blocks of 32.
@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.parametrize(("native", "factor"), [("off", 1.5), ("auto", 3)])
def test_bfloat16_is_about_as_close_as_transformers(tmp_path: Path, mode: Mode, native: str, factor: float) -> None:
    folder = quantized(tmp_path, TINY, QuantizeOptions(mode))
    reference = load_reference(folder)
    rounded = deepcopy(reference).bfloat16()
    ours, theirs = [], []
    for tp in (1, 3):
        with LocalRanks(folder, tp, dtype="bfloat16", native=native) as ranks:
            for answer in ranks.driver().generate(PROMPTS, 1):
                exact = reference_logits(reference, answer.prompt)[-1].numpy()
                assert answer.first_row is not None
                ours.append(np.abs(answer.first_row - exact).mean())
                theirs.append(np.abs(reference_logits(rounded, answer.prompt)[-1].numpy() - exact).mean())
    assert 0 < np.mean(ours) < factor * np.mean(theirs)


def test_more_ranks_than_groups_are_refused(tmp_path: Path) -> None:
    folder = quantized(tmp_path, TINY, QuantizeOptions("int4", 64))
    with pytest.raises(CheckpointError, match="3 ranks cannot share 2 groups of 64 feed-forward columns"):
        LocalRanks(folder, 3)
    with LocalRanks(folder, 2) as ranks:
        assert [engine.info.rank for engine in ranks.engines] == [0, 1]


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_the_embedded_model_over_uneven_ranks(embedded_model: Path, tmp_path: Path, mode: Mode) -> None:
    """Three KV heads over two ranks, groups of 128 in heads of 64: logits are those of one rank."""
    with OutputFolder(tmp_path / "quantized") as output:
        quantize(embedded_model, output, "smollm2", QuantizeOptions(mode, 128), lambda *_: None)
    prompt = random.Random(1).choices(range(100, 49000), k=24)
    rows = []
    for tp in (1, 2, 3):
        with LocalRanks(tmp_path / "quantized", tp) as ranks:
            (answer,) = ranks.driver().generate([prompt], 1)
            assert answer.first_row is not None
            rows.append(answer.first_row)
    with LocalRanks(embedded_model) as ranks:
        (exact,) = ranks.driver().generate([prompt], 1)
        assert exact.first_row is not None
    for row in rows[1:]:
        np.testing.assert_allclose(row, rows[0], atol=2e-3, rtol=0)
    assert 1e-4 < 1 - np.corrcoef(rows[0], exact.first_row)[0, 1] < {"int8": 0.01, "int4": 0.2}[mode]
