"""Plain references for families that transformers has no classes of: Grok-1 and Baichuan, written from their maths.

Grok-1 is xai-org/grok-1's model.py, under the names that hpcai-tech/grok-1 stores; Baichuan is the technical reports'
Llama with W_pack, a head whose rows are normalised (2), and linear biases instead of rotation (13B). Whole sequences,
one at a time, no cache: x is [n, hidden].
"""

import math
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel


class GrokConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """What config.json says, as attributes."""

    model_type = "grok-1"


class BaichuanConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """What config.json says, as attributes."""

    model_type = "baichuan"


class RootMeanSquare(nn.Module):
    """Its weight is called `kind`."""

    def __init__(self, config: PreTrainedConfig, kind: str) -> None:
        super().__init__()
        setattr(self, kind, nn.Parameter(torch.ones(config.hidden_size)))
        self.kind, self.eps = kind, config.rms_norm_eps

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt() * getattr(self, self.kind)
        return scaled


class GrokAttention(nn.Module):
    """Scores are multiplied by a stated scale and capped."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.config, self.head_dim = config, config.hidden_size // config.num_attention_heads
        width, kv_width = config.hidden_size, config.num_key_value_heads * self.head_dim
        self.q_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.k_proj, self.v_proj = (nn.Linear(width, kv_width, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        q, k = (rotated(part(x).unflatten(-1, (-1, self.head_dim))) for part in (self.q_proj, self.k_proj))
        v = self.v_proj(x).unflatten(-1, (-1, self.head_dim))
        k, v = (part.repeat_interleave(q.shape[1] // part.shape[1], dim=1) for part in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * self.config.attn_output_multiplier
        scores = self.config.max_attn_value * torch.tanh(scores / self.config.max_attn_value)
        out: Tensor = self.o_proj(attended(scores, v))
        return out


class GrokExpert(nn.Module):
    """GELU by its tanh approximation, which is what jax.nn.gelu computes."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        width, wide = config.hidden_size, config.intermediate_size
        self.linear, self.linear_v = (nn.Linear(width, wide, bias=False) for _ in range(2))
        self.linear_1 = nn.Linear(wide, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear_1(F.gelu(self.linear(x), approximate="tanh") * self.linear_v(x))
        return out


class GrokMixture(nn.Module):
    """Each chosen expert weighs what the softmax over all of them says."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.per_token = config.num_experts_per_tok
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = nn.ModuleList(GrokExpert(config) for _ in range(config.num_experts))

    def forward(self, x: Tensor) -> Tensor:
        shares = torch.softmax(self.gate(x), dim=-1)
        least = shares.topk(self.per_token, dim=-1).values[:, -1:]
        weights = torch.where(shares >= least, shares, 0)
        return sum((expert(x) * weights[:, [i]] for i, expert in enumerate(self.experts)), torch.zeros_like(x))


class GrokLayer(nn.Module):
    """Four norms."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.attn, self.moe_block = GrokAttention(config), GrokMixture(config)
        self.pre_attn_norm, self.post_attn_norm = (RootMeanSquare(config, "scale") for _ in range(2))
        self.pre_moe_norm, self.post_moe_norm = (RootMeanSquare(config, "scale") for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.post_attn_norm(self.attn(self.pre_attn_norm(x)))
        out: Tensor = x + self.post_moe_norm(self.moe_block(self.pre_moe_norm(x)))
        return out


class BaichuanAttention(nn.Module):
    """Rotated where the config states max_position_embeddings, else biased."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.heads, self.rotates = config.num_attention_heads, hasattr(config, "max_position_embeddings")
        self.W_pack = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.W_pack(x).view(len(x), 3, self.heads, -1).unbind(1)
        if self.rotates:
            q, k = rotated(q), rotated(k)
        scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
        if not self.rotates:
            scores = scores + torch.tensor(slopes(self.heads))[:, None, None] * torch.arange(len(x))
        out: Tensor = self.o_proj(attended(scores, v))
        return out


class BaichuanLayer(nn.Module):
    """Llama's."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        width, wide = config.hidden_size, config.intermediate_size
        self.self_attn = BaichuanAttention(config)
        self.mlp = nn.ModuleDict({name: nn.Linear(width, wide, bias=False) for name in ("gate_proj", "up_proj")})
        self.mlp["down_proj"] = nn.Linear(wide, width, bias=False)
        self.input_layernorm, self.post_attention_layernorm = (RootMeanSquare(config, "weight") for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        y, mlp = self.post_attention_layernorm(x), self.mlp
        out: Tensor = x + mlp["down_proj"](F.silu(mlp["gate_proj"](y)) * mlp["up_proj"](y))
        return out


class _Custom(PreTrainedModel):  # type: ignore[no-untyped-call]
    layer: type[nn.Module]
    norm_kind = "weight"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.model.layers = nn.ModuleList(self.layer(config) for _ in range(config.num_hidden_layers))
        self.model.norm = RootMeanSquare(config, self.norm_kind)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=config.initializer_range)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, ids_1n: Tensor) -> SimpleNamespace:
        """Return logits[1, n, vocabulary] of one sequence, as transformers' classes do."""
        c = self.config
        x = self.model.embed_tokens(ids_1n[0]) * getattr(c, "embedding_multiplier_scale", 1)
        for layer in self.model.layers:
            x = layer(x)
        normed_head = getattr(c, "z_loss_weight", None) is not None
        head = (
            self.lm_head.weight / self.lm_head.weight.norm(dim=1, keepdim=True) if normed_head else self.lm_head.weight
        )
        logits = self.model.norm(x) @ head.T * getattr(c, "output_multiplier_scale", 1)
        return SimpleNamespace(logits=logits[None])


class GrokModel(_Custom):  # type: ignore[no-untyped-call]
    """Grok-1."""

    config_class, layer, norm_kind = GrokConfig, GrokLayer, "scale"
    _tied_weights_keys: ClassVar = {"lm_head.weight": "model.embed_tokens.weight"}  # type: ignore[misc]


class BaichuanModel(_Custom):  # type: ignore[no-untyped-call]
    """Baichuan 1 and 2."""

    config_class, layer = BaichuanConfig, BaichuanLayer


def rotated(x_nHD: Tensor) -> Tensor:
    """Rotate pairs (d, d + D / 2) as complex numbers, base 10,000."""
    half = x_nHD.shape[-1] // 2
    frequencies = 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(len(x_nHD), dtype=torch.float64)[:, None] * frequencies
    turned = torch.complex(x_nHD[..., :half].double(), x_nHD[..., half:].double()) * torch.exp(1j * angles)[:, None]
    return torch.cat((turned.real, turned.imag), dim=-1).float()


def attended(scores_Hqk: Tensor, v_kHD: Tensor) -> Tensor:
    """Return the causal mean of values, [n, H * D]."""
    future = torch.ones_like(scores_Hqk[0], dtype=torch.bool).triu(1)
    return torch.einsum("hqk,khd->qhd", scores_Hqk.masked_fill(future, -math.inf).softmax(-1), v_kHD).flatten(1)


def slopes(heads: int) -> list[float]:
    """The slopes of 5 heads, out of the paper's lists for 4 and 8; only these are needed here."""
    assert heads == 5
    return [2**-2, 2**-4, 2**-6, 2**-8, 2**-1]
