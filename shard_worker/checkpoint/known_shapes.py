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
    return Architecture(
        family="llama",
        layers=shape.layers,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        query_heads=shape.heads[0],
        kv_heads=shape.heads[1],
        head_dim=shape.hidden_size // shape.heads[0],
        vocabulary_size=shape.vocabulary_size,
        context_length=shape.context_length,
        norm_eps=1e-5,
        rope=rope,
        tied_embeddings=shape.tied,
    )


_MODELS = known_models()

KNOWN_SHAPES = {
    "tiny": _llama(Shape(2, 64, 160, (4, 2), 512, 2048, tied=True), Rope(theta=10_000.0)),
    # In a context as long as gpt-fast's.
    "stories15m": _llama(replace(_MODELS["stories15m"].shape, context_length=2048), Rope(theta=10_000.0)),
    "smollm2-135m": _llama(_MODELS["smollm2-135m"].shape, Rope(theta=100_000.0)),
    "llama-2-7b": _llama(_MODELS["llama-2-7b"].shape, Rope(theta=10_000.0)),
    "llama-3.1-8b": _llama(_MODELS["llama-3.1-8b"].shape, Rope(theta=500_000.0, scaling=LLAMA_3_1_SCALING)),
}
