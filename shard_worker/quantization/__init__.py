"""Quantising a checkpoint's matrices: the formats, rounding to nearest, and GPTQ."""
