"""Where a hub folder keeps each of our tensors: names, fused matrices, norms that are stored less one."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from common.manifest import Architecture

HEAD = "lm_head.weight"
EXPERT = re.compile(r"feed_forward\.experts\.(\d+)\.(gate|up|down)")

_OUTER_NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": HEAD,
}
_LAYER_NAMES = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
}


@dataclass(frozen=True)
class Place:
    """Rows [start, stop) of a stored tensor, all of it where `stop` is None; `addend` is added to each element."""

    stored: str
    start: int = 0
    stop: int | None = None
    addend: float = 0.0


@dataclass(frozen=True)
class HubNames:
    """How a family stores a layer. `layer_names` are those that differ from Llama's, `experts` those of an expert.

    `fused` matrices hold query, key and value, or gate and up, below one another. Norms are stored less `norm_addend`.
    """

    layer_names: Mapping[str, str] = field(default_factory=dict)
    experts: Mapping[str, str] = field(default_factory=dict)
    fused: bool = False
    norm_addend: float = 0.0

    def place(self, name: str, architecture: Architecture) -> Place:
        """Return where our tensor `name` lies."""
        addend = self.norm_addend if name.endswith("norm.weight") else 0.0
        if name in _OUTER_NAMES:
            return Place(_OUTER_NAMES[name], addend=addend)
        _, layer, rest = name.split(".", 2)
        part, _, kind = rest.rpartition(".")
        prefix = f"model.layers.{layer}."
        if expert := EXPERT.fullmatch(part):
            return Place(f"{prefix}{self.experts['layer']}.{expert[1]}.{self.experts[expert[2]]}.{kind}")
        if self.fused and (span := _fused_span(part, architecture)):
            fused, start, stop = span
            return Place(f"{prefix}{fused}.{kind}", start, stop)
        return Place(f"{prefix}{({**_LAYER_NAMES, **self.layer_names})[part]}.{kind}", addend=addend)


def _fused_span(part: str, a: Architecture) -> tuple[str, int, int] | None:
    """Return the fused matrix that holds `part`, and its rows there, or None where `part` lies alone."""
    query, kv, wide = a.query_heads * a.head_dim, a.kv_heads * a.head_dim, a.intermediate_size
    return {
        "attention.query": ("self_attn.qkv_proj", 0, query),
        "attention.key": ("self_attn.qkv_proj", query, query + kv),
        "attention.value": ("self_attn.qkv_proj", query + kv, query + 2 * kv),
        "feed_forward.gate": ("mlp.gate_up_proj", 0, wide),
        "feed_forward.up": ("mlp.gate_up_proj", wide, 2 * wide),
    }.get(part)


LLAMA_NAMES = HubNames()
PHI3_NAMES = HubNames(fused=True)
GEMMA_NAMES = HubNames(norm_addend=1.0)
GEMMA2_NAMES = HubNames(
    layer_names={
        "attention_output_norm": "post_attention_layernorm",
        "feed_forward_norm": "pre_feedforward_layernorm",
        "feed_forward_output_norm": "post_feedforward_layernorm",
    },
    norm_addend=1.0,
)
MIXTRAL_NAMES = HubNames(
    layer_names={"feed_forward.router": "block_sparse_moe.gate"},
    experts={"layer": "block_sparse_moe.experts", "gate": "w1", "up": "w3", "down": "w2"},
)
