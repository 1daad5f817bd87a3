"""A bfloat16 model with quantised weights: packed, on any number of ranks, it says what PyTorch says."""

from pathlib import Path

import numpy as np
import pytest

from shard_worker.checkpoint.output_folder import OutputFolder
from shard_worker.native.library import Runner
from shard_worker.native.packing import Packed
from shard_worker.quantization.quantize import Mode, QuantizeOptions, quantize
from tests.support.local_ranks import LocalRanks
from tests.support.plans import Floats
from tests.support.tiny_model import TinyShape, make_tiny_model

SHAPE = TinyShape(head_dim=32, intermediate_size=101)  # groups of 32 columns, the last one partial
PROMPTS = [list(b"Hello"), list(b"There is a longer prompt as well, of many more ids than are computed at once " * 2)]


def first_rows(folder: Path, tp: int, chunk_tokens: int = 512, **settings: str) -> Floats:
    """Return the logits after each prompt."""
    with LocalRanks(folder, tp, **settings) as ranks:
        answers = ranks.driver().generate(PROMPTS, 1, chunk_tokens)
    return np.stack([answer.first_row for answer in answers if answer.first_row is not None])


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_any_number_of_ranks_says_what_pytorch_says(tmp_path: Path, mode: Mode) -> None:
    if not Runner(1).packs:
        pytest.skip("this processor has no integer products")
    model = make_tiny_model(tmp_path, SHAPE)
    with OutputFolder(tmp_path / "quantized") as output:
        quantize(model.folder, output, "tiny", QuantizeOptions(mode), lambda *_: None)
    exact = first_rows(tmp_path / "quantized", 1, native="off")
    scale = np.abs(exact).mean()
    ranks = [first_rows(tmp_path / "quantized", tp, dtype="bfloat16", native="on") for tp in (1, 2, 3)]
    for rows in ranks:
        assert 0 < np.abs(rows - exact).mean() < 0.06 * scale
        assert np.abs(rows - ranks[0]).mean() < 0.06 * scale
    chunked = first_rows(tmp_path / "quantized", 1, chunk_tokens=7, dtype="bfloat16", native="on")
    assert np.array_equal(chunked, ranks[0]), "chunks change what is computed"


@pytest.mark.parametrize(("dtype", "packed"), [("bfloat16", True), ("float32", False)])
def test_a_float32_model_is_left_as_it_is(tmp_path: Path, dtype: str, packed: bool) -> None:
    model = make_tiny_model(tmp_path, SHAPE)
    with OutputFolder(tmp_path / "quantized") as output:
        quantize(model.folder, output, "tiny", QuantizeOptions("int4"), lambda *_: None)
    with LocalRanks(tmp_path / "quantized", dtype=dtype, native="on") as ranks:
        modules = list(ranks.engines[0]._forward.model.modules())
    kinds = [type(module) for module in modules if isinstance(module, Packed)]
    assert (len(kinds) > 0) == (packed and Runner(1).packs)
