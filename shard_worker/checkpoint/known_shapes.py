"""The shapes of well-known models, by name: what a checkpoint of random weights can be made of."""

from common.manifest import Architecture, Rope, RopeScaling

LLAMA_3_1_SCALING = RopeScaling(
    kind="llama3",
    factor=8.0,
    low_frequency_factor=1.0,
    high_frequency_factor=4.0,
    original_context_length=8192,
)


def _llama(
    layers: int,
    hidden_size: int,
    intermediate_size: int,
    heads: tuple[int, int],
    vocabulary_size: int,
    context_length: int,
    rope: Rope,
    tied: bool,
) -> Architecture:
    """Return the shape. heads: those of queries, and of keys and values."""
    query_heads, kv_heads = heads
    return Architecture(
        family="llama",
        layers=layers,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        query_heads=query_heads,
        kv_heads=kv_heads,
        head_dim=hidden_size // query_heads,
        vocabulary_size=vocabulary_size,
        context_length=context_length,
        norm_eps=1e-5,
        rope=rope,
        tied_embeddings=tied,
    )


# From the models' own config.json on the Hugging Face hub; stories15m from karpathy/llama2.c.
# Layers, hidden and intermediate size, (query, KV) heads, vocabulary, context.
KNOWN_SHAPES = {
    "tiny": _llama(2, 64, 160, (4, 2), 512, 2048, Rope(theta=10_000.0), tied=True),
    "stories15m": _llama(6, 288, 768, (6, 6), 32_000, 2048, Rope(theta=10_000.0), tied=True),
    "smollm2-135m": _llama(30, 576, 1536, (9, 3), 49_152, 8192, Rope(theta=100_000.0), tied=True),
    "llama-2-7b": _llama(32, 4096, 11_008, (32, 32), 32_000, 4096, Rope(theta=10_000.0), tied=False),
    "llama-3.1-8b": _llama(
        32, 4096, 14_336, (32, 8), 128_256, 131_072, Rope(theta=500_000.0, scaling=LLAMA_3_1_SCALING), tied=False
    ),
}
