"""Gumbel noise as a pure function of (seed, position, token id).

The generator is SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators",
with Stafford's mix 13), read by counter: each (stream, seed, position) seeds one generator, and token `id`
takes its output number `id + 1`. So no slice, batch or order of rows can change a value. Two rows share a
shifted run of bits only when their 64-bit starts lie within a vocabulary of each other: one pair of rows in
2^47 at 50,000 tokens.
"""

import torch
from torch import Tensor

SAMPLING_STREAM = 0

# Scratch space is 24 bytes per element: it should fit a CPU's cache, and a fraction of a GPU's memory.
# Changes no value.
_CHUNK_ELEMENTS_CPU = 1 << 16
_CHUNK_ELEMENTS_GPU = 1 << 24


def gumbel_noise(
    seeds: Tensor,
    positions: Tensor,
    first_id: int,
    size: int,
    device: torch.device | str,
    stream: int = SAMPLING_STREAM,
) -> Tensor:
    """Return standard Gumbel noise, float32[P, size], for the token ids first_id .. first_id + size - 1.

    seeds: int64[P], the bits of a u64. positions: int64[P], the absolute position of the token being drawn (0
    is the first id of the prompt). Both may be on any device.

    Noise is -ln(E) with E = -log1p(-u) exponential: small u, which wins, keeps all its digits (-ln(-ln u)
    would not). u is one of 2^52 midpoints, so noise lies in (-3.6, 36.8). Both logarithms are float64 and the
    result is rounded once to float32: devices whose float64 logarithms differ in the last bit still agree in
    nearly every value.
    """
    starts_P = _row_starts(seeds.to(device), positions.to(device), stream)
    counters_V = torch.arange(first_id + 1, first_id + size + 1, device=device).mul_(_GOLDEN)
    noise_PV = torch.empty(len(starts_P), size, dtype=torch.float32, device=device)
    chunk_elements = _CHUNK_ELEMENTS_CPU if noise_PV.device.type == "cpu" else _CHUNK_ELEMENTS_GPU
    chunk_rows = max(1, chunk_elements // size)
    for start in range(0, len(noise_PV), chunk_rows):
        chunk = slice(start, start + chunk_rows)
        bits = _mix(starts_P[chunk].unsqueeze(1) + counters_V)
        minus_u = _shift_right(bits, 12).to(torch.float64).add_(0.5).mul_(-(2.0**-52))
        noise_PV[chunk] = minus_u.log1p_().neg_().log_()
    return noise_PV.neg_()


def _row_starts(seeds_P: Tensor, positions_P: Tensor, stream: int) -> Tensor:
    keys_P = _mix(seeds_P + _signed(_GOLDEN * (stream + 1)))
    return _mix(keys_P + (positions_P + 1) * _GOLDEN)


def _mix(bits: Tensor) -> Tensor:
    """SplitMix64's finaliser, in place: a bijection of 64-bit words in wrap-around int64 arithmetic."""
    bits ^= _shift_right(bits, 30)
    bits *= _signed(0xBF58476D1CE4E5B9)
    bits ^= _shift_right(bits, 27)
    bits *= _signed(0x94D049BB133111EB)
    bits ^= _shift_right(bits, 31)
    return bits


def _shift_right(bits: Tensor, count: int) -> Tensor:
    """The logical shift; torch's own repeats the sign."""
    return (bits >> count).bitwise_and_((1 << (64 - count)) - 1)


def _signed(word: int) -> int:
    """The int64 with the low 64 bits of `word`."""
    word &= (1 << 64) - 1
    return word - (1 << 64) if word >> 63 else word


_GOLDEN = _signed(0x9E3779B97F4A7C15)
