"""Loading: each rank reads its own slices, all ranks together the whole, and types are as promised."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from common.manifest import Architecture
from shard_worker.checkpoint.layout import expected_tensors
from shard_worker.checkpoint.output_folder import OutputFolder
from shard_worker.checkpoint.reader import CheckpointReader
from shard_worker.model.attention import fast_attention
from shard_worker.model.linear import FloatLinear
from shard_worker.model.llama import Llama
from shard_worker.model.weights import load_model
from shard_worker.parallel import RankGroup
from shard_worker.partition import partition
from shard_worker.quantization.quantize import Mode, QuantizeOptions, quantize
from tests.support.tiny_model import TinyModel, TinyShape, make_tiny_model


class CountingSource:
    """A reader that counts how many elements of each tensor were asked for."""

    def __init__(self, reader: CheckpointReader) -> None:
        self._reader = reader
        self.elements: dict[str, int] = {}

    def read(self, name: str, dim: int | None = None, start: int = 0, stop: int | None = None) -> Tensor:
        tensor = self._reader.read(name, dim, start, stop)
        self.elements[name] = self.elements.get(name, 0) + tensor.numel()
        return tensor

    def finish(self) -> None:
        self._reader.finish()


def load(model: TinyModel, rank: int, tp: int, dtype: torch.dtype = torch.float32) -> tuple[Llama, dict[str, int]]:
    source = CountingSource(CheckpointReader(model.folder))
    arch = CheckpointReader(model.folder).manifest.architecture
    quantization = CheckpointReader(model.folder).manifest.quantization
    part, group = partition(arch, rank, tp, quantization.group_size or 1), RankGroup(rank, tp, epoch=1)
    loaded = load_model(source, arch, part, group, fast_attention, dtype, torch.device("cpu"), quantization)
    return loaded, source.elements


def with_copies(elements: int, name: str, arch: Architecture, tp: int) -> int:
    """Return how many of a matrix's elements all ranks read: a KV head by each rank whose queries need it."""
    if ".attention.key." not in name and ".attention.value." not in name:
        return elements
    return elements // arch.kv_heads * sum(partition(arch, rank, tp).kv_heads.size for rank in range(tp))


@pytest.mark.parametrize("tp", [1, 2, 3])
def test_matrices_are_read_once_over_all_ranks_and_norms_by_each(tiny_model: TinyModel, tp: int) -> None:
    arch = CheckpointReader(tiny_model.folder).manifest.architecture
    read = [load(tiny_model, rank, tp)[1] for rank in range(tp)]
    for name, spec in expected_tensors(arch, "float32").items():
        whole = torch.Size(spec.shape).numel()
        expected = whole * tp if len(spec.shape) == 1 else with_copies(whole, name, arch, tp)
        assert sum(elements[name] for elements in read) == expected, name


def test_norms_and_head_are_float32_and_the_rest_is_not(tiny_model: TinyModel) -> None:
    model, _ = load(tiny_model, 0, 1, torch.bfloat16)
    wide = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.float32}
    assert wide == {name for name, _ in model.named_parameters() if "norm" in name or name.startswith("head")}
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_tied_head_is_the_embedding(tmp_path_factory: pytest.TempPathFactory) -> None:
    tied = make_tiny_model(tmp_path_factory.mktemp("tied"), TinyShape(tied=True))
    head, embedding = float_ends(load(tied, 0, 1)[0])
    assert torch.equal(head.weight, embedding.weight)
    # In float32 one tensor is both; a second would take as much memory again.
    assert head.weight.data_ptr() == embedding.weight.data_ptr()
    head, embedding = float_ends(load(tied, 0, 1, torch.bfloat16)[0])
    assert torch.equal(head.weight, embedding.weight.float())


def float_ends(model: Llama) -> tuple[FloatLinear, FloatLinear]:
    """Return the head and the embedding of a model that is not quantised."""
    assert isinstance(model.head, FloatLinear) and isinstance(model.embedding, FloatLinear)
    return model.head, model.embedding


@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.parametrize("tp", [1, 2, 3])
def test_quantised_matrices_are_read_once_and_as_they_are(tmp_path: Path, tp: int, mode: Mode) -> None:
    plain = make_tiny_model(tmp_path, TinyShape(intermediate_size=101, tied=True))
    with OutputFolder(tmp_path / "quantized") as output:
        quantize(plain.folder, output, "tiny", QuantizeOptions(mode), lambda *_: None)
    loaded = [load(TinyModel(tmp_path / "quantized", plain.reference), rank, tp) for rank in range(tp)]
    manifest = CheckpointReader(tmp_path / "quantized").manifest
    for name, spec in expected_tensors(manifest.architecture, "float32", manifest.quantization).items():
        whole = torch.Size(spec.shape).numel()
        copies = 1
        if len(spec.shape) == 1 and (".output." in name or ".down." in name or not name.endswith(".scale")):
            copies = tp  # norms, and the row scales of matrices that are cut by columns
        expected = with_copies(whole * copies, name, manifest.architecture, tp)
        assert sum(elements[name] for _, elements in loaded) == expected, name
    for model, _ in loaded:
        assert model.head is model.embedding
        kept = {
            buffer.dtype for name, buffer in model.named_buffers() if name.startswith("layers") and name.endswith(".q")
        }
        assert kept == {torch.int8 if mode == "int8" else torch.uint8}
        assert all("norm" in name for name, _ in model.named_parameters())
