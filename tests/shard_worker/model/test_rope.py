"""Rotary embedding: transformers' own tables and rotation are the reference."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from common.manifest import LinearScaling, Rope, RopeScaling, YarnScaling
from shard_worker.model.rope import RopeTable, inverse_frequencies, rotate
from tests.support.tiny_model import LLAMA3_ROPE

CONTEXT_LENGTH = 4096
POSITIONS = torch.tensor([0, 1, 2, 63, 64, 65, 1000, CONTEXT_LENGTH - 1])
SCALING = RopeScaling(
    kind="llama3", factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_context_length=64
)


YARN = YarnScaling(
    kind="yarn", factor=4.0, original_context_length=1024, beta_fast=24.0, beta_slow=2.0, attention_factor=1.1
)
THEIRS: list[tuple[RopeScaling | LinearScaling | YarnScaling | None, dict[str, Any]]] = [
    (None, {"rope_type": "default"}),
    (SCALING, LLAMA3_ROPE),
    (LinearScaling(kind="linear", factor=4.0), {"rope_type": "linear", "factor": 4.0}),
    (
        YARN,
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
        | {"beta_fast": 24.0, "beta_slow": 2.0, "attention_factor": 1.1},
    ),
]


@pytest.mark.parametrize(("scaling", "theirs"), THEIRS, ids=["plain", "llama3", "linear", "yarn"])
@pytest.mark.parametrize("head_dim", [8, 64])
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
def test_rotation_is_that_of_transformers(
    scaling: RopeScaling | LinearScaling | YarnScaling | None, theirs: dict[str, Any], head_dim: int, theta: float
) -> None:
    table = RopeTable(Rope(theta=theta, scaling=scaling), head_dim, CONTEXT_LENGTH, torch.device("cpu"))
    config = LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=CONTEXT_LENGTH,
        rope_parameters={"rope_theta": theta, **theirs},
    )
    torch.manual_seed(0)
    x_NHD = torch.randn(len(POSITIONS), 4, head_dim)
    cos, sin = LlamaRotaryEmbedding(config)(x_NHD, POSITIONS[None])
    expected, _ = apply_rotary_pos_emb(x_NHD.transpose(0, 1)[None], x_NHD.transpose(0, 1)[None], cos, sin)
    torch.testing.assert_close(rotate(x_NHD, *table(POSITIONS)), expected[0].transpose(0, 1), atol=1e-6, rtol=1e-6)


def test_llama3_scaling_keeps_short_waves_and_stretches_long_ones() -> None:
    plain = inverse_frequencies(Rope(theta=10_000.0), 64)
    scaled = inverse_frequencies(Rope(theta=10_000.0, scaling=SCALING), 64)
    wavelengths = 2 * torch.pi / plain
    short, long = wavelengths < 64 / 4, wavelengths > 64 / 1
    assert short.any() and long.any() and (~short & ~long).any()
    assert torch.equal(scaled[short], plain[short])
    assert torch.equal(scaled[long], plain[long] / 8)
    between = ~short & ~long
    assert ((scaled[between] < plain[between]) & (scaled[between] > plain[between] / 8)).all()


def test_rotation_depends_on_distance_only() -> None:
    table = RopeTable(Rope(theta=10_000.0), 16, CONTEXT_LENGTH, torch.device("cpu"))
    torch.manual_seed(0)
    query, key = torch.randn(1, 1, 16), torch.randn(1, 1, 16)

    def product(query_at: int, key_at: int) -> float:
        turned = [rotate(x, *table(torch.tensor([at]))) for x, at in ((query, query_at), (key, key_at))]
        return float((turned[0] * turned[1]).sum())

    assert product(10, 3) == pytest.approx(product(2007, 2000), abs=1e-4)
    assert product(10, 3) != pytest.approx(product(10, 4), abs=1e-2)


def test_the_type_outside_is_kept() -> None:
    table = RopeTable(Rope(theta=10_000.0), 8, 16, torch.device("cpu"))
    x_NHD = torch.randn(2, 3, 8)
    turned = rotate(x_NHD.bfloat16(), *table(torch.tensor([5, 9])))
    exact = rotate(x_NHD.bfloat16().float(), *table(torch.tensor([5, 9])))
    assert turned.dtype == torch.bfloat16 and torch.equal(turned, exact.bfloat16())
