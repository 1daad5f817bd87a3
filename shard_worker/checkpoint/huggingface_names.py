"""Where a hub folder keeps each of our tensors: names, fused matrices, norms that are stored less one."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor
from torch.nn.functional import normalize

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
    """Rows [start, stop) of a stored tensor, all of it where `stop` is None, and how it differs from ours.

    `addend` is added to each element; the rows of one that is `normalized` are divided by their lengths; one that is
    `transposed` holds our columns as rows.
    """

    stored: str
    start: int = 0
    stop: int | None = None
    addend: float = 0.0
    normalized: bool = False
    transposed: bool = False

    def as_ours(self, block: Tensor) -> Tensor:
        """Return whole rows of ours: in the type they are stored in, or in float32 where something is computed."""
        if self.addend:
            return block.float() + self.addend
        return normalize(block.float()) if self.normalized else block


@dataclass(frozen=True)
class HubNames:
    """How a family stores a model. The names are those that differ from Llama's; `experts` are those of an expert.

    A fused matrix holds query, key and value, or gate and up, below one another. Stacked experts lie below one another
    in one matrix for each role, that of "down" transposed. Norms are stored less `norm_addend`.
    """

    outer_names: Mapping[str, str] = field(default_factory=dict)
    layers: str = "model.layers"
    layer_names: Mapping[str, str] = field(default_factory=dict)
    experts: Mapping[str, str] = field(default_factory=dict)
    stacked_experts: bool = False
    fused_qkv: str | None = None
    fused_gate_up: str | None = None
    norm_kind: str = "weight"
    norm_addend: float = 0.0
    normalized_head: bool = False

    def place(self, name: str, architecture: Architecture) -> Place:
        """Return where our tensor `name` lies."""
        addend = self.norm_addend if name.endswith("norm.weight") else 0.0
        if name in _OUTER_NAMES:
            normalized = self.normalized_head and name == "head.weight"
            return Place({**_OUTER_NAMES, **self.outer_names}[name], addend=addend, normalized=normalized)
        _, layer, rest = name.split(".", 2)
        part, _, kind = rest.rpartition(".")
        prefix = f"{self.layers}.{layer}."
        if expert := EXPERT.fullmatch(part):
            return self._expert_place(prefix, int(expert[1]), expert[2], architecture.intermediate_size)
        if span := self._fused_span(part, architecture):
            fused, start, stop = span
            return Place(f"{prefix}{fused}.{kind}", start, stop)
        kind = self.norm_kind if part.endswith("norm") else kind
        return Place(f"{prefix}{({**_LAYER_NAMES, **self.layer_names})[part]}.{kind}", addend=addend)

    def _expert_place(self, prefix: str, index: int, role: str, wide: int) -> Place:
        layer, matrix = f"{prefix}{self.experts['layer']}", self.experts[role]
        if not self.stacked_experts:
            return Place(f"{layer}.{index}.{matrix}.weight")
        return Place(f"{layer}.{matrix}", index * wide, (index + 1) * wide, transposed=role == "down")

    def _fused_span(self, part: str, a: Architecture) -> tuple[str, int, int] | None:
        """Return the fused matrix that holds `part`, and its rows there, or None where `part` lies alone."""
        query, kv, wide = a.query_heads * a.head_dim, a.kv_heads * a.head_dim, a.intermediate_size
        fused, start, stop = {
            "attention.query": (self.fused_qkv, 0, query),
            "attention.key": (self.fused_qkv, query, query + kv),
            "attention.value": (self.fused_qkv, query + kv, query + 2 * kv),
            "feed_forward.gate": (self.fused_gate_up, 0, wide),
            "feed_forward.up": (self.fused_gate_up, wide, 2 * wide),
        }.get(part, (None, 0, 0))
        return None if fused is None else (fused, start, stop)


LLAMA_NAMES = HubNames()
PHI3_NAMES = HubNames(fused_qkv="self_attn.qkv_proj", fused_gate_up="mlp.gate_up_proj")
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
DBRX_NAMES = HubNames(
    outer_names={"embedding.weight": "transformer.wte.weight", "norm.weight": "transformer.norm_f.weight"},
    layers="transformer.blocks",
    layer_names={
        "attention_norm": "norm_attn_norm.norm_1",
        "attention.output": "norm_attn_norm.attn.out_proj",
        "feed_forward_norm": "norm_attn_norm.norm_2",
        "feed_forward.router": "ffn.router.layer",
    },
    experts={"layer": "ffn.experts.mlp", "gate": "w1", "up": "v1", "down": "w2"},
    stacked_experts=True,
    fused_qkv="norm_attn_norm.attn.Wqkv",
)
GROK_NAMES = HubNames(
    outer_names={"norm.weight": "model.norm.scale"},
    layer_names={
        "attention_norm": "pre_attn_norm",
        "attention.query": "attn.q_proj",
        "attention.key": "attn.k_proj",
        "attention.value": "attn.v_proj",
        "attention.output": "attn.o_proj",
        "attention_output_norm": "post_attn_norm",
        "feed_forward_norm": "pre_moe_norm",
        "feed_forward.router": "moe_block.gate",
        "feed_forward_output_norm": "post_moe_norm",
    },
    experts={"layer": "moe_block.experts", "gate": "linear", "up": "linear_v", "down": "linear_1"},
    norm_kind="scale",
)
BAICHUAN_NAMES = HubNames(fused_qkv="self_attn.W_pack")
BAICHUAN2_NAMES = HubNames(fused_qkv="self_attn.W_pack", normalized_head=True)
