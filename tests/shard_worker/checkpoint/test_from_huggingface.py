"""Models from folders of the hub's layout, made by transformers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from common.errors import CheckpointError
from common.manifest import RopeScaling
from shard_worker.checkpoint.from_huggingface import open_huggingface
from shard_worker.checkpoint.reader import CheckpointReader
from tests.support.reference import reference_name

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.fixture
def hub_folder(tmp_path: Path) -> Callable[..., tuple[Path, dict[str, torch.Tensor]]]:
    """Return a function that makes a hub folder of a random model, and returns its weights too."""

    def make(
        dtype: torch.dtype = torch.float32, shard_size: str = "1GB", mistral: bool = False, **changes: Any
    ) -> tuple[Path, dict[str, torch.Tensor]]:
        torch.manual_seed(1)
        shape: dict[str, Any] = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 64,
            "max_position_embeddings": 256,
        } | changes
        model: PreTrainedModel
        if mistral:
            model = MistralForCausalLM(MistralConfig(**{"sliding_window": None} | shape))
        else:
            model = LlamaForCausalLM(LlamaConfig(**shape))
        folder = tmp_path / "hub" / "tiny-llama"
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
        model.save_pretrained(folder, max_shard_size=shard_size)
        Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[])).save(str(folder / "tokenizer.json"))
        return folder, {name: tensor.detach() for name, tensor in model.state_dict().items()}

    return make


def edit(path: Path, changes: dict[str, Any]) -> None:
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not ...}))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"head_dim": 16},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1, "rms_norm_eps": 1e-5},
        {"shard_size": "20KB"},
        {"shard_size": "20KB", "tie_word_embeddings": True, "head_dim": 24},
        {"dtype": torch.bfloat16},
        {"dtype": torch.float16},
        {"rope_parameters": LLAMA3_ROPE},
        {"mistral": True},
    ],
    ids=str,
)
def test_every_tensor_comes_through(
    tmp_path: Path, hub_folder: Callable[..., Any], write: Callable[..., Any], changes: dict[str, Any]
) -> None:
    folder, theirs = hub_folder(**changes)
    assert ("shard_size" in changes) == (folder / "model.safetensors.index.json").exists()
    model = open_huggingface(folder)
    manifest = write(model, tmp_path / "ours")
    assert manifest.source == "tiny-llama"
    assert manifest.architecture.tied_embeddings == changes.get("tie_word_embeddings", False)
    assert manifest.architecture.head_dim == changes.get("head_dim", 8)
    reader = CheckpointReader(tmp_path / "ours")
    names = {reference_name(name): name for name in load_file(tmp_path / "ours" / "model.safetensors")}
    for their, ours in names.items():
        assert torch.equal(reader.read(ours), theirs.pop(their).float()), ours
    reader.finish()
    assert theirs.keys() <= {"lm_head.weight"}


def test_bfloat16_is_what_torch_rounds_to(
    tmp_path: Path, hub_folder: Callable[..., Any], write: Callable[..., Any]
) -> None:
    folder, theirs = hub_folder()
    write(open_huggingface(folder), tmp_path / "ours", "bfloat16")
    with CheckpointReader(tmp_path / "ours") as reader:
        assert torch.equal(reader.read("head.weight"), theirs["lm_head.weight"].bfloat16())
        assert reader.read("norm.weight").dtype == torch.float32


def test_llama3_rope_scaling(hub_folder: Callable[..., Any]) -> None:
    folder, _ = hub_folder(rope_parameters=LLAMA3_ROPE)
    rope = open_huggingface(folder).architecture.rope
    assert rope.theta == 500_000.0
    assert rope.scaling == RopeScaling(
        kind="llama3", factor=8, low_frequency_factor=1, high_frequency_factor=4, original_context_length=64
    )


def test_a_tied_model_may_repeat_its_embedding_as_head(hub_folder: Callable[..., Any]) -> None:
    folder, theirs = hub_folder(tie_word_embeddings=True)
    save_file(theirs | {"lm_head.weight": theirs["model.embed_tokens.weight"].clone()}, folder / "model.safetensors")
    assert open_huggingface(folder).architecture.tied_embeddings
    save_file(theirs | {"lm_head.weight": theirs["model.embed_tokens.weight"] + 1}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is not model\.embed_tokens\.weight"):
        open_huggingface(folder)


def test_leftover_missing_and_misshapen_tensors_are_named(hub_folder: Callable[..., Any]) -> None:
    folder, theirs = hub_folder()
    path = folder / "model.safetensors"
    query = "model.layers.1.self_attn.q_proj.weight"
    save_file(theirs | {"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)}, path)
    with pytest.raises(CheckpointError, match=r"leftover tensors: model\.layers\.0\.self_attn\.q_proj\.bias"):
        open_huggingface(folder)
    save_file({name: tensor for name, tensor in theirs.items() if name != query}, path)
    with pytest.raises(CheckpointError, match=f"missing tensors: {query}"):
        open_huggingface(folder)
    save_file(theirs | {query: torch.zeros(16, 32)}, path)
    with pytest.raises(CheckpointError, match=rf"{query} is \[16, 32\], not \[32, 32\]"):
        open_huggingface(folder)
    save_file(theirs | {query: torch.zeros(32, 32, dtype=torch.int8)}, path)
    with pytest.raises(CheckpointError, match=f"{query} has type torch.int8"):
        open_huggingface(folder)
    save_file(theirs | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}, path)
    open_huggingface(folder)


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/model.safetensors", "sub/model.safetensors", "model.bin"]
)
def test_an_index_cannot_name_files_elsewhere(hub_folder: Callable[..., Any], name: str) -> None:
    folder, theirs = hub_folder(shard_size="20KB")
    shutil.copy(next(folder.glob("model-*.safetensors")), folder.parent / "model.safetensors")
    edit(folder / "model.safetensors.index.json", {"weight_map": dict.fromkeys(theirs, name)})
    with pytest.raises(CheckpointError, match="which is not a safetensors file beside it"):
        open_huggingface(folder)


def test_an_index_must_agree_with_its_files(hub_folder: Callable[..., Any]) -> None:
    folder, _ = hub_folder(shard_size="20KB")
    index = folder / "model.safetensors.index.json"
    placed = json.loads(index.read_text())["weight_map"]
    first = min(name for name, file in placed.items() if list(placed.values()).count(file) > 1)
    edit(index, {"weight_map": {name: file for name, file in placed.items() if name != first}})
    with pytest.raises(CheckpointError, match=f"the index does not place {first} there"):
        open_huggingface(folder)
    edit(index, {"weight_map": placed | {"extra": placed[first]}})
    with pytest.raises(CheckpointError, match="missing tensors: extra"):
        open_huggingface(folder)


def test_pickles_are_read_only_by_who_brings_a_reader(hub_folder: Callable[..., Any]) -> None:
    folder, _ = hub_folder()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor .*; `tandem convert` reads pytorch"):
        open_huggingface(folder)
    assert open_huggingface(folder, unpickle=lambda path: path).architecture.layers == 2
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor .* with a weight_map$"):
        open_huggingface(folder)
