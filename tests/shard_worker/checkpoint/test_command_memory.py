"""`tandem convert` and `tandem quantize` hold less than 1.3 times the largest file that they read.

Each runs in a process of its own, and all that it has mapped counts. A model is of two files, so that who kept both in
memory would fail; a GGUF file is one shard, whatever its size: its bar is 1.3 times the whole file. The files are small
beside real ones: blocks of a fixed size weigh more here than there. Pickles are in `test_conversion_memory.py`.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from shard_worker.checkpoint.from_huggingface import open_huggingface
from tests.support.deep_hub import deepen
from tests.support.foreign_checkpoints import tiny_architecture, tiny_weights, write_hub
from tests.support.packed_int4 import PackedFormat, pack_folder
from tests.support.peak_growth import peak_growth_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self/clear_refs")
MIB = 1 << 20
MAX_RATIO = 1.3
NARROW = {"layers": 1, "hidden_size": 256, "head_dim": 64, "intermediate_size": 256}
WIDE = NARROW | {"hidden_size": 1024, "head_dim": 256, "intermediate_size": 4096}
FILES = 2
SHARD_BYTES = 64 * MIB


def write_deep_hub(folder: Path, shape: dict[str, Any], layers: int, stored: PackedFormat | None = None) -> int:
    """Make a hub folder, bfloat16 or packed; return its largest file's size in bytes."""
    architecture = tiny_architecture(**shape)
    write_hub(folder, architecture, tiny_weights(architecture, torch.bfloat16))
    if stored is not None:
        pack_folder(folder, stored)
    return deepen(folder, layers, FILES)


def assert_holds_less(folder: Path, shard_bytes: int, command: str, *flags: str) -> None:
    """Fail unless the command on `folder`/large grows by less than the bar beyond what it takes on `folder`/small."""
    assert 60 * MIB < shard_bytes < 100 * MIB
    sources = (folder / "small", folder / "large")
    lines = [[command, str(source), "--output", f"{source}-ours", *flags] for source in sources]
    assert peak_growth_bytes(*lines) < MAX_RATIO * shard_bytes


@pytest.mark.parametrize("method", [None, "awq", "gptq"])
def test_a_hub_folder(tmp_path: Path, method: Literal["awq", "gptq"] | None) -> None:
    stored = None if method is None else PackedFormat(method, 128)
    write_deep_hub(tmp_path / "small", NARROW, FILES, stored)
    shard_bytes = write_deep_hub(tmp_path / "large", WIDE, 4 if stored is None else 16, stored)
    assert_holds_less(tmp_path, shard_bytes, "convert")


def zeros(array: npt.NDArray[Any], kind: GGMLQuantizationType) -> npt.NDArray[Any]:
    """Return as many zeros as `array`, a matrix, holds elements, stored as `kind`; a float32 array is kept."""
    if kind == GGMLQuantizationType.F32:
        return array
    if kind == GGMLQuantizationType.F16:
        return np.zeros(array.shape, np.float16)
    block_elements, block_bytes = GGML_QUANT_SIZES[kind]
    return np.zeros((array.shape[0], array.shape[1] // block_elements * block_bytes), np.uint8)


@pytest.mark.parametrize(("kind", "layers"), [("F16", 3), ("Q4_K", 8)])
def test_a_gguf_file(
    tmp_path: Path, make_model: Callable[..., Any], write_gguf: Callable[..., Path], kind: str, layers: int
) -> None:
    for name, shape in (("small", NARROW), ("large", WIDE | {"layers": layers})):
        path = write_gguf(*make_model(**shape), kind=GGMLQuantizationType[kind], quantise=zeros)
        path.rename(tmp_path / name)
    assert_holds_less(tmp_path, (tmp_path / "large").stat().st_size, "convert")


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_rounding_to_nearest(tmp_path: Path, write: Callable[..., Any], mode: str) -> None:
    for name, shape, layers in (("small", NARROW, FILES), ("large", WIDE, 4)):
        write_deep_hub(tmp_path / f"{name}-hub", shape, layers)
        model = open_huggingface(tmp_path / f"{name}-hub")
        write(model, tmp_path / name, "bfloat16", max_file_bytes=SHARD_BYTES)
    sizes = [path.stat().st_size for path in (tmp_path / "large").glob("*.safetensors")]
    assert len(sizes) == FILES
    assert_holds_less(tmp_path, max(sizes), "quantize", "--mode", mode)
