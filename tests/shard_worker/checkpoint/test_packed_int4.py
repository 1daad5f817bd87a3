"""AWQ, GPTQ and compressed-tensors: the same whole numbers in our layout, scales and zeros within 1/16 of a step."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from common.errors import CheckpointError
from common.manifest import Manifest
from shard_worker.checkpoint import source
from shard_worker.checkpoint.from_huggingface import open_huggingface
from shard_worker.checkpoint.huggingface_config import read_config
from shard_worker.checkpoint.huggingface_names import HubNames
from shard_worker.checkpoint.output_folder import OutputFolder
from shard_worker.checkpoint.reader import CheckpointReader
from shard_worker.checkpoint.writer import write_checkpoint
from shard_worker.quantization.formats import dequantize_int4, unpack_nibbles
from tests.support.greedy import assert_matches
from tests.support.local_ranks import LocalRanks
from tests.support.packed_int4 import PackedFormat, edit_config, pack_folder
from tests.support.reference import load_reference, reference_logits
from tests.support.tiny_families import FAMILIES, TinyFamily, random_family
from tests.support.tiny_model import byte_tokenizer

SHAPE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 4, "head_dim": 32}
SHAPE |= {"num_key_value_heads": 2, "num_hidden_layers": 2}
MODELS = {"llama": TinyFamily(LlamaConfig, LlamaForCausalLM, SHAPE)} | {
    name: TinyFamily(FAMILIES[name].config, FAMILIES[name].model, FAMILIES[name].changes | SHAPE)
    for name in ("qwen2", "phi3 4k", "mixtral")
}
FORMATS = [
    PackedFormat("awq", 32),
    PackedFormat("awq", 128),
    PackedFormat("gptq", 64),
    PackedFormat("gptq", None),
    PackedFormat("gptq", 128, symmetric=True, scale_dtype=torch.bfloat16),
    PackedFormat("gptq_v2", 32),
    PackedFormat("compressed-tensors", 32),
    PackedFormat("compressed-tensors", 64, symmetric=True),
    PackedFormat("compressed-tensors", 128, symmetric=True, scale_dtype=torch.bfloat16),
    PackedFormat("compressed-tensors", None, symmetric=True),
]


def hub_folder(folder: Path, name: str = "llama") -> Path:
    random_family(MODELS[name]).save_pretrained(folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def convert(hub: Path, folder: Path) -> Manifest:
    with OutputFolder(folder) as output:
        return write_checkpoint(open_huggingface(hub), output, "tiny", "float32", lambda *_: None)


def matrices(reader: CheckpointReader) -> dict[str, tuple[Tensor, Tensor]]:
    """Return q and the values of every int4 matrix."""
    quantization = reader.manifest.quantization
    assert quantization.group_size is not None and quantization.head_group_size is not None
    found = {}
    for name in {file for file in reader._tensors if file.endswith(".q")}:
        stem = name.removesuffix(".q")
        packed, scale, zero = (reader.read(f"{stem}.{part}") for part in ("q", "scale", "zero"))
        size = quantization.head_group_size if "attention.output" in stem else quantization.group_size
        columns = packed.shape[1] * 2
        found[stem] = unpack_nibbles(packed, columns), dequantize_int4(packed, scale, zero, size, columns)
    return found


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("stored", FORMATS, ids=str)
def test_numbers_are_taken_over(
    tmp_path: Path, stored: PackedFormat, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "BLOCK_ELEMENTS", 20 * 128)  # blocks end within a word of eight rows
    theirs = pack_folder(hub_folder(tmp_path / "hub", name), stored)
    manifest = convert(tmp_path / "hub", tmp_path / "ours")
    assert manifest.quantization.mode == "int4"
    assert manifest.quantization.method == stored.method.removesuffix("_v2")
    names: HubNames = _names(tmp_path / "hub")
    exact = stored.symmetric and stored.scale_dtype == torch.bfloat16
    with CheckpointReader(tmp_path / "ours") as reader:
        ours = matrices(reader)
        for matrix, (q, values) in ours.items():
            place = names.place(matrix, manifest.architecture)
            their_q, z, s = (part[place.start : place.stop] for part in theirs[place.stored])
            assert torch.equal(q, their_q), matrix
            steps = (values - (their_q - z) * s).abs() / s
            assert steps.max() == 0 if exact else 0 < steps.max() <= 1 / 16, matrix
    assert len(ours) >= len(theirs)


def _names(folder: Path) -> HubNames:
    return read_config(folder).names


@pytest.mark.parametrize("stored", [FORMATS[0], FORMATS[2], FORMATS[6]], ids=str)
def test_all_ranks_together_are_the_formula(tmp_path: Path, stored: PackedFormat) -> None:
    pack_folder(hub_folder(tmp_path / "hub"), stored)
    convert(tmp_path / "hub", tmp_path / "ours")
    reference = load_reference(tmp_path / "ours")
    for tp in (1, 2):
        with LocalRanks(tmp_path / "ours", tp) as ranks:
            for answer in ranks.driver().generate([[1], list(range(40, 57))], 6):
                assert_matches(answer, reference_logits(reference, answer.known).numpy(), 1e-4)


def edit_tensors(folder: Path, **changes: Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors") | changes
    save_file({k: v for k, v in tensors.items() if v is not None}, folder / "model.safetensors")


UP = "model.layers.1.mlp.up_proj"


def test_biases_that_are_zero_are_no_biases(tmp_path: Path) -> None:
    pack_folder(hub_folder(tmp_path), FORMATS[2])
    edit_tensors(tmp_path, **{f"{UP}.bias": torch.zeros(192, dtype=torch.float16)})
    open_huggingface(tmp_path)
    edit_tensors(tmp_path, **{f"{UP}.bias": torch.ones(192, dtype=torch.float16)})
    with pytest.raises(CheckpointError, match=rf"leftover tensors: {UP}\.bias"):
        open_huggingface(tmp_path)


@pytest.mark.parametrize(
    ("stored", "changes", "reason"),
    [
        (2, {f"{UP}.g_idx": torch.arange(128).flip(0).int() // 64}, "act-order, desc_act"),
        (2, {f"{UP}.qzeros": None}, rf"missing tensors: {UP}\.qzeros"),
        (2, {f"{UP}.qweight": None}, rf"missing tensors: {UP}\.weight"),
        (2, {f"{UP}.qweight": None, f"{UP}.weight": torch.ones(192, 128)}, rf"{UP}\.weight is not quantised"),
        (0, {f"{UP}.scales": torch.ones(4, 191)}, r"scales is \[4, 191\], not \[4, 192\]"),
        (0, {f"{UP}.scales": torch.ones(4, 192).int()}, r"scales has type torch\.int32"),
        (0, {f"{UP}.qweight": torch.ones(128)}, r"qweight is \[128\], not a matrix"),
        (0, {f"{UP}.qweight": torch.ones(128, 24)}, r"qweight has type torch\.float32"),
        (0, {"lm_head.qweight": torch.ones(128, 24).int()}, r"missing tensors: lm_head\.scales"),
        (6, {f"{UP}.weight_shape": None}, "weight_shape is missing"),
        (6, {f"{UP}.weight_shape": torch.tensor([-192, 128])}, r"matrix of \[-192, 128\]"),
        (6, {f"{UP}.weight_shape": torch.tensor([192, 1 << 40])}, r"weight_packed is \[192, 16\], not"),
        (6, {f"{UP}.weight_g_idx": torch.zeros(128).int()}, "act-order"),
        (7, {f"{UP}.weight_zero_point": torch.zeros(24, 2).int()}, "config.json says symmetric"),
    ],
)
def test_other_tensors_are_refused(tmp_path: Path, stored: int, changes: dict[str, Tensor | None], reason: str) -> None:
    pack_folder(hub_folder(tmp_path), FORMATS[stored])
    edit_tensors(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=reason):
        open_huggingface(tmp_path)


def test_a_layer_that_is_not_quantised_is_refused(tmp_path: Path) -> None:
    hub = hub_folder(tmp_path)
    whole = load_file(hub / "model.safetensors")[f"{UP}.weight"]
    pack_folder(hub, FORMATS[0])
    edit_tensors(hub, **{f"{UP}.{part}": None for part in ("qweight", "qzeros", "scales")}, **{f"{UP}.weight": whole})
    with pytest.raises(CheckpointError, match=rf"{UP}\.weight is not quantised; our int4 checkpoints"):
        open_huggingface(hub)


def test_scales_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    pack_folder(hub_folder(tmp_path / "hub"), FORMATS[0])
    edit_tensors(tmp_path / "hub", **{f"{UP}.scales": torch.full((4, 192), torch.inf)})
    with pytest.raises(CheckpointError, match=rf"{UP}\.scales holds a number that is not finite"):
        convert(tmp_path / "hub", tmp_path / "ours")


@pytest.mark.parametrize(
    ("stored", "changes", "reason"),
    [
        (0, {"quant_method": "fp8", "activation_scheme": "dynamic"}, 'quant_method = "fp8" is none of awq, gptq'),
        (0, {"quant_method": "bitsandbytes"}, "bitsandbytes"),
        (0, {"quant_method": None}, "quant_method = null"),
        (0, {"version": "gemv"}, 'version = "gemv"'),
        (0, {"zero_point": False}, "zero_point = false"),
        (0, {"bits": 8}, "bits = 8"),
        (0, {"group_size": 16}, "groups of 16 columns"),
        (0, {"group_size": 0}, "group_size = 0"),
        (0, {"rotation": "hadamard"}, 'rotation = "hadamard": Extra inputs'),
        (2, {"bits": 3}, "bits = 3"),
        (2, {"checkpoint_format": "marlin"}, 'checkpoint_format = "marlin"'),
        (2, {"dynamic": {"-:.*": {}}}, "dynamic = "),
        (2, {"lm_head": True}, "lm_head = true"),
        (6, {"format": "float-quantized"}, 'format = "float-quantized"'),
        (6, {"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme = "),
        (6, {"config_groups": {}}, "config_groups = "),
        (6, {"transform_config": {"config_groups": {}}}, "transform_config = "),
    ],
)
def test_other_configs_are_refused(tmp_path: Path, stored: int, changes: dict[str, Any], reason: str) -> None:
    pack_folder(hub_folder(tmp_path), FORMATS[stored])
    edit_config(tmp_path, quantization_config=FORMATS[stored].config | changes)
    with pytest.raises(CheckpointError, match=reason):
        open_huggingface(tmp_path)


def test_quantised_activations_are_refused(tmp_path: Path) -> None:
    pack_folder(hub_folder(tmp_path), FORMATS[6])
    config = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    config["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8}
    edit_config(tmp_path, quantization_config=config)
    with pytest.raises(CheckpointError, match=r"input_activations = \{\"num_bits\": 8\}"):
        open_huggingface(tmp_path)
