"""The shapes of well-known models, by name: what a checkpoint of random weights can be made of."""

from dataclasses import replace

from common.manifest import Architecture, Rope, RopeScaling
from shard_worker.checkpoint.catalog import Shape, known_models

LLAMA_3_1_SCALING = RopeScaling(
    kind="llama3",
    factor=8.0,
    low_frequency_factor=1.0,
    high_frequency_factor=4.0,
    original_context_length=8192,
)


def _llama(shape: Shape, rope: Rope) -> Architecture:
    return Architecture.model_validate(shape.architecture(rope).model_dump())


_MODELS = known_models()

KNOWN_SHAPES = {
    "tiny": _llama(Shape(2, 64, 160, (4, 2), 512, 2048, tied=True), Rope(theta=10_000.0)),
    # In a context as long as gpt-fast's.
    "stories15m": _llama(replace(_MODELS["stories15m"].shape, context_length=2048), Rope(theta=10_000.0)),
    "smollm2-135m": _llama(_MODELS["smollm2-135m"].shape, Rope(theta=100_000.0)),
    "llama-2-7b": _llama(_MODELS["llama-2-7b"].shape, Rope(theta=10_000.0)),
    "llama-3.1-8b": _llama(_MODELS["llama-3.1-8b"].shape, Rope(theta=500_000.0, scaling=LLAMA_3_1_SCALING)),
}
