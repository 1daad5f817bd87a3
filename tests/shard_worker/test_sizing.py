"""Sizes that are told are those of the tensors that ranks make, and of the checkpoints that are written."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.errors import CheckpointError
from common.manifest import UNQUANTIZED, Architecture, read_manifest
from shard_worker.checkpoint.layout import expected_tensors
from shard_worker.checkpoint.output_folder import OutputFolder
from shard_worker.checkpoint.reader import CheckpointReader
from shard_worker.model.attention import fast_attention
from shard_worker.model.kv_cache import bytes_per_token
from shard_worker.model.weights import load_model
from shard_worker.parallel import RankGroup
from shard_worker.partition import partition
from shard_worker.quantization.quantize import Mode, QuantizeOptions, quantize
from shard_worker.sizing import parameters, rank_memory, stated_quantization, stored_bytes
from tests.support.tiny_families import make_family
from tests.support.tiny_model import TinyShape, make_tiny_model

CONTEXT_TOKENS = 100
SHAPES = {
    "uneven": TinyShape(intermediate_size=101),
    "tied": TinyShape(tied=True, intermediate_size=101),
    "more ranks than KV heads": TinyShape(query_heads=6, kv_heads=2, intermediate_size=160),
}


def loaded_bytes(folder: Path, rank: int, tp: int) -> tuple[int, int]:
    """Return the bytes of a rank's weights and of CONTEXT_TOKENS of its KV cache, as they are made."""
    with CheckpointReader(folder) as reader:
        arch, quantization = reader.manifest.architecture, reader.manifest.quantization
        part, group = partition(arch, rank, tp, quantization.group_size or 1), RankGroup(rank, tp, epoch=1)
        model = load_model(reader, arch, part, group, fast_attention, torch.bfloat16, torch.device("cpu"), quantization)
        tensors = {
            tensor.data_ptr(): tensor.nbytes
            for name, tensor in (*model.named_parameters(), *model.named_buffers())
            if "rope" not in name
        }
    cache = bytes_per_token(arch.layers, part.kv_heads.size, arch.head_dim, torch.bfloat16)
    return sum(tensors.values()), cache * CONTEXT_TOKENS


def assert_as_told(folder: Path, tp: int) -> None:
    manifest, _ = read_manifest(folder)
    told = rank_memory(manifest.architecture, manifest.quantization, tp, CONTEXT_TOKENS)
    made = [loaded_bytes(folder, rank, tp) for rank in range(tp)]
    assert told.all_ranks_bytes == sum(map(sum, made))
    assert (told.weights_bytes, told.kv_cache_bytes) == max(made, key=sum)


@pytest.mark.parametrize("tp", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", [None, "int8", "int4"])
def test_a_rank_holds_what_is_told(tmp_path: Path, shape: str, mode: Mode | None, tp: int) -> None:
    folder = make_tiny_model(tmp_path, SHAPES[shape], "bfloat16").folder
    if mode is not None:
        with OutputFolder(tmp_path / "quantized") as output:
            quantize(folder, output, "tiny", QuantizeOptions(mode), lambda *_: None)
        folder = tmp_path / "quantized"
        manifest, _ = read_manifest(folder)
        assert stated_quantization(manifest.architecture, mode) == manifest.quantization
    assert_as_told(folder, tp)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "gemma2", "mixtral"])
def test_so_it_is_with_every_other_tensor(tmp_path: Path, family: str) -> None:
    folder = make_family(tmp_path, family, "bfloat16").folder
    assert_as_told(folder, 2)
    check_stored(read_manifest(folder)[0].architecture)


@pytest.mark.parametrize("shape", SHAPES)
def test_checkpoints_are_as_large_as_told(tmp_path: Path, shape: str) -> None:
    check_stored(read_manifest(make_tiny_model(tmp_path, replace(SHAPES[shape], layers=3)).folder)[0].architecture)


def check_stored(architecture: Architecture) -> None:
    for form in ("bf16", "int8", "int4"):
        quantization = stated_quantization(architecture, form)
        tensors = expected_tensors(architecture, "bfloat16", quantization).values()
        assert stored_bytes(architecture, quantization) == sum(spec.num_bytes for spec in tensors)
    plain = expected_tensors(architecture, "float32").values()
    assert parameters(architecture) * 4 == sum(spec.num_bytes for spec in plain)


def test_too_many_ranks_are_refused(tmp_path: Path) -> None:
    architecture = read_manifest(make_tiny_model(tmp_path).folder)[0].architecture
    with pytest.raises(CheckpointError, match="8 ranks cannot share 6 query heads"):
        rank_memory(architecture, UNQUANTIZED, 8, CONTEXT_TOKENS)
