"""transformers as the reference: the same weights, one plain forward over whole sequences."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from common.manifest import Architecture
from shard_worker.checkpoint.reader import CheckpointReader
from shard_worker.checkpoint.weight_shapes import matrix_format, weight_shapes

# Written out once more, not taken from the conversion: it is what the conversion is checked against.
_NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
}


def load_reference(folder: Path) -> LlamaForCausalLM:
    """Return transformers' model with the weights of the checkpoint in `folder`, in float32, quantised or not.

    Rope scaling is not supported: the models that have it are made with a reference of their own.
    """
    with CheckpointReader(folder) as reader:
        arch = reader.manifest.architecture
        assert arch.rope.scaling is None
        weights = {reference_name(name): read_matrix(reader, name) for name in weight_shapes(arch)}
    if arch.tied_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    with torch.device("meta"):
        model = LlamaForCausalLM(_config(arch))
    # Buffers are not part of a state dict: make the rope's frequencies anew, off the meta device.
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    model.load_state_dict(weights, strict=True, assign=True)
    model.train(False)
    return model


def reference_name(name: str) -> str:
    """Return the name that transformers has for one of our weights."""
    if name in _NAMES:
        return _NAMES[name]
    _, layer, part = name.split(".", 2)
    return f"model.layers.{layer}.{_LAYER_NAMES[part.removesuffix('.weight')]}.weight"


def read_matrix(reader: CheckpointReader, name: str) -> Tensor:
    """Return a whole weight in float32, by the formula of its format, written out element by element."""
    stored = matrix_format(name, reader.manifest.quantization)
    if stored.mode == "none" or "norm" in name:
        return reader.read(name).float()
    q, scale = reader.read(f"{name}.q"), reader.read(f"{name}.scale").float()
    if stored.mode == "int8":
        return q.float() * scale[:, None]
    zero = reader.read(f"{name}.zero").float()
    columns = weight_shapes(reader.manifest.architecture)[name][1]
    at = torch.arange(columns)
    group = at // (stored.group_size or 0)
    nibbles = (q[:, at // 2].int() >> (4 * (at % 2))) & 15
    return (nibbles.float() - 8) * scale[:, group] + zero[:, group]


@torch.inference_mode()
def reference_logits(model: PreTrainedModel, ids: Sequence[int]) -> Tensor:
    """Return float32[len(ids), vocabulary]: the logits at every position of one sequence."""
    logits: Tensor = model(torch.tensor([ids])).logits[0]
    return logits.float()


def _config(arch: Architecture) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=arch.hidden_size,
        intermediate_size=arch.intermediate_size,
        num_hidden_layers=arch.layers,
        num_attention_heads=arch.query_heads,
        num_key_value_heads=arch.kv_heads,
        head_dim=arch.head_dim,
        vocab_size=arch.vocabulary_size,
        max_position_embeddings=arch.context_length,
        rms_norm_eps=arch.norm_eps,
        rope_parameters={"rope_theta": arch.rope.theta, "rope_type": "default"},
        tie_word_embeddings=arch.tied_embeddings,
    )
