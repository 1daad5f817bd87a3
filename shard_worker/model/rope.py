"""Rotary position embedding (Su et al. 2021), half-split layout, with its frequency scalings."""

import math

import torch
from torch import Tensor

from common.manifest import LinearScaling, LongRopeScaling, Rope, RopeScaling, YarnScaling


def inverse_frequencies(rope: Rope, rotary_dim: int) -> Tensor:
    """Return the rotation per position of each pair of dimensions, float32[rotary_dim / 2].

    float32 from here to the angles, as in the code that models are trained with: exact angles would move logits by
    4e-4 at 1,500 tokens.
    """
    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim
    frequencies = 1 / rope.theta**exponents
    match rope.scaling:
        case None:
            return frequencies
        case RopeScaling():
            return _scale_llama3(frequencies, rope.scaling)
        case LinearScaling():
            return frequencies / rope.scaling.factor
        case YarnScaling():
            return _scale_yarn(frequencies, rope.theta, rope.scaling)
        case LongRopeScaling():
            return 1 / (torch.tensor(rope.scaling.factors, dtype=torch.float32) * rope.theta**exponents)


def _scale_llama3(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Stretch long wavelengths by `factor`, keep short ones, blend between (Meta's `apply_scaling`)."""
    wavelengths = 2 * math.pi / frequencies
    turns = scaling.original_context_length / wavelengths
    blend = (turns - scaling.low_frequency_factor) / (scaling.high_frequency_factor - scaling.low_frequency_factor)
    blend = blend.clamp(0, 1)
    return (1 - blend) * frequencies / scaling.factor + blend * frequencies


def _scale_yarn(frequencies: Tensor, theta: float, scaling: YarnScaling) -> Tensor:
    """Blend kept and interpolated frequencies, `find_correction_range` of Peng et al.'s own code between them."""
    rotary_dim = 2 * len(frequencies)

    def pair_of(turns: float) -> float:
        """Return which pair of dimensions turns so often within the original context, as a fraction."""
        wavelength = scaling.original_context_length / (2 * math.pi * turns)
        return rotary_dim * math.log(wavelength) / (2 * math.log(theta))

    first = max(math.floor(pair_of(scaling.beta_fast)), 0)
    last = min(math.ceil(pair_of(scaling.beta_slow)), rotary_dim - 1)
    width = last - first or 0.001
    interpolated = ((torch.arange(len(frequencies), dtype=torch.float32) - first) / width).clamp(0, 1)
    return interpolated * frequencies / scaling.factor + (1 - interpolated) * frequencies


class RopeTable(torch.nn.Module):
    """Cosines and sines of every position, float32[context_length, rotary_dim / 2]."""

    cos: Tensor
    sin: Tensor

    def __init__(self, rope: Rope, rotary_dim: int, context_length: int, device: torch.device) -> None:
        super().__init__()
        positions = torch.arange(context_length, dtype=torch.float32)
        angles = torch.outer(positions, inverse_frequencies(rope, rotary_dim))
        factor = rope.scaling.attention_factor if isinstance(rope.scaling, YarnScaling | LongRopeScaling) else 1.0
        self.register_buffer("cos", (angles.cos() * factor).to(device), persistent=False)
        self.register_buffer("sin", (angles.sin() * factor).to(device), persistent=False)

    def forward(self, positions_N: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos and sin for these positions, each float32[N, 1, rotary_dim / 2]."""
        return self.cos[positions_N].unsqueeze(1), self.sin[positions_N].unsqueeze(1)


def rotate(x_NHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate every head of x[N, heads, head_dim] by its position's angles; float32 inside, x's type outside.

    Dimensions of a head past those that have angles stay as they are.
    """
    rotary_dim = 2 * cos.shape[-1]
    first, second = x_NHD[..., :rotary_dim].float().chunk(2, dim=-1)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x_NHD.dtype)
    return rotated if rotary_dim == x_NHD.shape[-1] else torch.cat((rotated, x_NHD[..., rotary_dim:]), dim=-1)
