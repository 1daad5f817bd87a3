"""Rope scaling in GGUF: factors for each frequency, from which the parameters that made them are found again."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

# (low_freq_factor, high_freq_factor, original context) of the models that have this scaling: Llama 3.1 to 3.3.
LLAMA3_SETTINGS = ((1.0, 4.0, 8192),)

Factors = npt.NDArray[np.float32]


def shortest(value: float | np.float32) -> float:
    """Undo the detour of a decimal over float32: 1e-05 was stored as 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def llama3_parameters(factors: Factors, theta: float) -> dict[str, Any] | None:
    """Return the rope parameters of config.json that make these factors, None where no known ones do.

    llama.cpp's converter computes the factors in float32 (`LlamaModel.generate_extra_tensors`), by the formula of
    `model.rope`; they are taken for equal to a few units in the last place.
    """
    factor = shortest(factors.max())
    frequencies = 1.0 / theta ** (np.arange(len(factors)) / len(factors))
    for low, high, original in LLAMA3_SETTINGS:
        turns = original * frequencies / (2 * math.pi)
        blend = ((turns - low) / (high - low)).clip(0, 1)
        if factor > 1 and np.allclose(factors, 1 / ((1 - blend) / factor + blend), rtol=2e-6, atol=0):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
    return None


def longrope_parameters(
    short: Factors, long: Factors, original: int, context_length: int, attention_factor: float | None
) -> dict[str, Any]:
    """Return the rope parameters of config.json. `attention_factor` is left out where the config's formula makes it."""
    parameters = {
        "rope_type": "longrope",
        "short_factor": [shortest(factor) for factor in short],
        "long_factor": [shortest(factor) for factor in long],
        "original_max_position_embeddings": original,
    }
    if attention_factor is None:
        return parameters
    scale = context_length / original if original > 0 else 1.0
    usual = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 and original > 1 else 1.0
    is_usual = np.float32(usual) == np.float32(attention_factor)
    return parameters if is_usual else parameters | {"attention_factor": shortest(attention_factor)}
