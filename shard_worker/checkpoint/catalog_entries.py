"""The catalogue itself: gpt-fast's models and the ones its users asked for, family by family."""

from shard_worker.checkpoint.catalog import KnownModel, Shape

BIN = "pytorch_model.bin files"
LLAMA2C = "llama2.c's .pt files"

_LLAMA_7B = Shape(32, 4096, 11_008, (32, 32), 32_000, 2048)
_LLAMA_13B = Shape(40, 5120, 13_824, (40, 40), 32_000, 2048)
_LLAMA_2_7B = Shape(32, 4096, 11_008, (32, 32), 32_000, 4096)
_LLAMA_2_13B = Shape(40, 5120, 13_824, (40, 40), 32_000, 4096)
_LLAMA_3_1_70B = Shape(80, 8192, 28_672, (64, 8), 128_256, 131_072)


def _smollm2(layers: int, hidden: int, wide: int, heads: tuple[int, int]) -> Shape:
    return Shape(layers, hidden, wide, heads, 49_152, 8192, tied=True)


def _qwen2(layers: int, hidden: int, wide: int, heads: tuple[int, int], tied: bool) -> Shape:
    return Shape(layers, hidden, wide, heads, 151_936 if tied else 152_064, 32_768, tied=tied, qkv_bias=True)


def _qwen3(layers: int, hidden: int, wide: int, heads: tuple[int, int], tied: bool) -> Shape:
    return Shape(layers, hidden, wide, heads, 151_936, 40_960, head_dim=128, tied=tied, qk_norm=True)


def _gemma(layers: int, hidden: int, wide: int, heads: tuple[int, int], head_dim: int, norms: bool = False) -> Shape:
    return Shape(layers, hidden, wide, heads, 256_000, 8192, head_dim=head_dim, tied=True, output_norms=norms)


def _gemma3(layers: int, hidden: int, wide: int, heads: tuple[int, int]) -> Shape:
    return Shape(layers, hidden, wide, heads, 262_144, 32_768, head_dim=256, tied=True, qk_norm=True, output_norms=True)


def _of(owner: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{owner}/{name}" for name in names)


def _stories(size: str, shape: Shape) -> KnownModel:
    name = f"stories{size}"
    return KnownModel(name.lower(), _of("karpathy", "tinyllamas"), shape, LLAMA2C, file=f"{name}.pt")


ENTRIES = (
    # Small models, for trying out and drafting.
    _stories("15M", Shape(6, 288, 768, (6, 6), 32_000, 256, tied=True)),
    _stories("42M", Shape(8, 512, 1376, (8, 8), 32_000, 1024, tied=True)),
    _stories("110M", Shape(12, 768, 2048, (12, 12), 32_000, 1024, tied=True)),
    KnownModel(
        "smollm2-135m", _of("HuggingFaceTB", "SmolLM2-135M", "SmolLM2-135M-Instruct"), _smollm2(30, 576, 1536, (9, 3))
    ),
    KnownModel(
        "smollm2-360m", _of("HuggingFaceTB", "SmolLM2-360M", "SmolLM2-360M-Instruct"), _smollm2(32, 960, 2560, (15, 5))
    ),
    KnownModel(
        "smollm2-1.7b",
        _of("HuggingFaceTB", "SmolLM2-1.7B", "SmolLM2-1.7B-Instruct"),
        _smollm2(24, 2048, 8192, (32, 32)),
    ),
    KnownModel(
        "tinyllama-1.1b", _of("TinyLlama", "TinyLlama-1.1B-Chat-v1.0"), Shape(22, 2048, 5632, (32, 4), 32_000, 2048)
    ),
    # Llama 1 and what has its shape.
    KnownModel("llama-7b", _of("huggyllama", "llama-7b"), _LLAMA_7B),
    KnownModel("llama-13b", _of("huggyllama", "llama-13b"), _LLAMA_13B),
    KnownModel("llama-30b", _of("huggyllama", "llama-30b"), Shape(60, 6656, 17_920, (52, 52), 32_000, 2048)),
    KnownModel("llama-65b", _of("huggyllama", "llama-65b"), Shape(80, 8192, 22_016, (64, 64), 32_000, 2048)),
    KnownModel(
        "open-llama-3b", _of("openlm-research", "open_llama_3b"), Shape(26, 3200, 8640, (32, 32), 32_000, 2048), BIN
    ),
    KnownModel("open-llama-7b", _of("openlm-research", "open_llama_7b"), _LLAMA_7B, BIN),
    KnownModel("open-llama-13b", _of("openlm-research", "open_llama_13b"), _LLAMA_13B, BIN),
    # Llama 2 and Code Llama.
    KnownModel("llama-2-7b", _of("meta-llama", "Llama-2-7b-hf", "Llama-2-7b-chat-hf"), _LLAMA_2_7B),
    KnownModel("llama-2-13b", _of("meta-llama", "Llama-2-13b-hf", "Llama-2-13b-chat-hf"), _LLAMA_2_13B),
    KnownModel(
        "llama-2-70b",
        _of("meta-llama", "Llama-2-70b-hf", "Llama-2-70b-chat-hf"),
        Shape(80, 8192, 28_672, (64, 8), 32_000, 4096),
    ),
    KnownModel(
        "codellama-7b-python",
        _of("codellama", "CodeLlama-7b-Python-hf"),
        Shape(32, 4096, 11_008, (32, 32), 32_000, 16_384),
    ),
    KnownModel(
        "codellama-13b-python",
        _of("codellama", "CodeLlama-13b-Python-hf"),
        Shape(40, 5120, 13_824, (40, 40), 32_000, 16_384),
    ),
    KnownModel(
        "codellama-34b-python",
        _of("codellama", "CodeLlama-34b-Python-hf"),
        Shape(48, 8192, 22_016, (64, 8), 32_000, 16_384),
    ),
    # Llama 3 to 3.3.
    KnownModel(
        "llama-3-8b",
        _of("meta-llama", "Meta-Llama-3-8B", "Meta-Llama-3-8B-Instruct"),
        Shape(32, 4096, 14_336, (32, 8), 128_256, 8192),
    ),
    KnownModel(
        "llama-3-70b",
        _of("meta-llama", "Meta-Llama-3-70B", "Meta-Llama-3-70B-Instruct"),
        Shape(80, 8192, 28_672, (64, 8), 128_256, 8192),
    ),
    KnownModel(
        "llama-3.1-8b",
        _of("meta-llama", "Llama-3.1-8B", "Llama-3.1-8B-Instruct"),
        Shape(32, 4096, 14_336, (32, 8), 128_256, 131_072),
    ),
    KnownModel("llama-3.1-70b", _of("meta-llama", "Llama-3.1-70B", "Llama-3.1-70B-Instruct"), _LLAMA_3_1_70B),
    KnownModel(
        "llama-3.1-405b",
        _of("meta-llama", "Llama-3.1-405B", "Llama-3.1-405B-Instruct"),
        Shape(126, 16_384, 53_248, (128, 8), 128_256, 131_072),
    ),
    KnownModel(
        "llama-3.2-1b",
        _of("meta-llama", "Llama-3.2-1B", "Llama-3.2-1B-Instruct"),
        Shape(16, 2048, 8192, (32, 8), 128_256, 131_072, tied=True),
    ),
    KnownModel(
        "llama-3.2-3b",
        _of("meta-llama", "Llama-3.2-3B", "Llama-3.2-3B-Instruct"),
        Shape(28, 3072, 8192, (24, 8), 128_256, 131_072, tied=True),
    ),
    KnownModel("llama-3.3-70b-instruct", _of("meta-llama", "Llama-3.3-70B-Instruct"), _LLAMA_3_1_70B),
    # Mistral AI.
    KnownModel(
        "mistral-7b-v0.1",
        _of("mistralai", "Mistral-7B-v0.1", "Mistral-7B-Instruct-v0.1", "Mistral-7B-Instruct-v0.2"),
        Shape(32, 4096, 14_336, (32, 8), 32_000, 32_768),
    ),
    KnownModel(
        "mistral-7b-v0.3",
        _of("mistralai", "Mistral-7B-v0.3", "Mistral-7B-Instruct-v0.3"),
        Shape(32, 4096, 14_336, (32, 8), 32_768, 32_768),
    ),
    KnownModel(
        "mixtral-8x7b",
        _of("mistralai", "Mixtral-8x7B-v0.1", "Mixtral-8x7B-Instruct-v0.1"),
        Shape(32, 4096, 14_336, (32, 8), 32_000, 32_768, experts=(8, 2)),
    ),
    KnownModel(
        "mixtral-8x22b",
        _of("mistralai", "Mixtral-8x22B-v0.1"),
        Shape(56, 6144, 16_384, (48, 8), 32_000, 65_536, experts=(8, 2)),
    ),
    # Qwen.
    KnownModel(
        "qwen2.5-0.5b",
        _of("Qwen", "Qwen2.5-0.5B", "Qwen2.5-0.5B-Instruct", "Qwen2-0.5B"),
        _qwen2(24, 896, 4864, (14, 2), True),
    ),
    KnownModel(
        "qwen2.5-1.5b",
        _of("Qwen", "Qwen2.5-1.5B", "Qwen2.5-1.5B-Instruct", "Qwen2-1.5B"),
        _qwen2(28, 1536, 8960, (12, 2), True),
    ),
    KnownModel("qwen2.5-3b", _of("Qwen", "Qwen2.5-3B", "Qwen2.5-3B-Instruct"), _qwen2(36, 2048, 11_008, (16, 2), True)),
    KnownModel(
        "qwen2.5-7b",
        _of("Qwen", "Qwen2.5-7B", "Qwen2.5-7B-Instruct", "Qwen2-7B"),
        _qwen2(28, 3584, 18_944, (28, 4), False),
    ),
    KnownModel(
        "qwen2.5-14b", _of("Qwen", "Qwen2.5-14B", "Qwen2.5-14B-Instruct"), _qwen2(48, 5120, 13_824, (40, 8), False)
    ),
    KnownModel(
        "qwen2.5-32b", _of("Qwen", "Qwen2.5-32B", "Qwen2.5-32B-Instruct"), _qwen2(64, 5120, 27_648, (40, 8), False)
    ),
    KnownModel(
        "qwen2.5-72b",
        _of("Qwen", "Qwen2.5-72B", "Qwen2.5-72B-Instruct", "Qwen2-72B"),
        _qwen2(80, 8192, 29_568, (64, 8), False),
    ),
    KnownModel("qwen3-0.6b", _of("Qwen", "Qwen3-0.6B"), _qwen3(28, 1024, 3072, (16, 8), True)),
    KnownModel("qwen3-1.7b", _of("Qwen", "Qwen3-1.7B"), _qwen3(28, 2048, 6144, (16, 8), True)),
    KnownModel("qwen3-4b", _of("Qwen", "Qwen3-4B"), _qwen3(36, 2560, 9728, (32, 8), True)),
    KnownModel("qwen3-8b", _of("Qwen", "Qwen3-8B"), _qwen3(36, 4096, 12_288, (32, 8), False)),
    KnownModel("qwen3-14b", _of("Qwen", "Qwen3-14B"), _qwen3(40, 5120, 17_408, (40, 8), False)),
    KnownModel("qwen3-32b", _of("Qwen", "Qwen3-32B"), _qwen3(64, 5120, 25_600, (64, 8), False)),
    # Gemma.
    KnownModel("gemma-2b", _of("google", "gemma-2b", "gemma-2b-it"), _gemma(18, 2048, 16_384, (8, 1), 256)),
    KnownModel("gemma-7b", _of("google", "gemma-7b", "gemma-7b-it"), _gemma(28, 3072, 24_576, (16, 16), 256)),
    KnownModel(
        "gemma-2-2b", _of("google", "gemma-2-2b", "gemma-2-2b-it"), _gemma(26, 2304, 9216, (8, 4), 256, norms=True)
    ),
    KnownModel(
        "gemma-2-9b", _of("google", "gemma-2-9b", "gemma-2-9b-it"), _gemma(42, 3584, 14_336, (16, 8), 256, norms=True)
    ),
    KnownModel(
        "gemma-2-27b",
        _of("google", "gemma-2-27b", "gemma-2-27b-it"),
        _gemma(46, 4608, 36_864, (32, 16), 128, norms=True),
    ),
    KnownModel("gemma-3-270m", _of("google", "gemma-3-270m", "gemma-3-270m-it"), _gemma3(18, 640, 2048, (4, 1))),
    KnownModel("gemma-3-1b", _of("google", "gemma-3-1b-pt", "gemma-3-1b-it"), _gemma3(26, 1152, 6912, (4, 1))),
    # Phi.
    KnownModel(
        "phi-3-mini",
        _of("microsoft", "Phi-3-mini-4k-instruct", "Phi-3-mini-128k-instruct", "Phi-3.5-mini-instruct"),
        Shape(32, 3072, 8192, (32, 32), 32_064, 4096),
    ),
    KnownModel(
        "phi-3-medium", _of("microsoft", "Phi-3-medium-4k-instruct"), Shape(40, 5120, 17_920, (40, 10), 32_064, 4096)
    ),
    KnownModel(
        "phi-4-mini", _of("microsoft", "Phi-4-mini-instruct"), Shape(32, 3072, 8192, (24, 8), 200_064, 4096, tied=True)
    ),
    KnownModel("phi-4", _of("microsoft", "phi-4"), Shape(40, 5120, 17_920, (40, 10), 100_352, 16_384)),
    # Large mixtures, and Baichuan.
    KnownModel(
        "dbrx",
        _of("databricks", "dbrx-base", "dbrx-instruct"),
        Shape(40, 6144, 10_752, (48, 8), 100_352, 32_768, experts=(16, 4)),
    ),
    KnownModel(
        "grok-1",
        _of("hpcai-tech", "grok-1"),
        Shape(64, 6144, 32_768, (48, 8), 131_072, 8192, output_norms=True, experts=(8, 2)),
        BIN,
    ),
    KnownModel("baichuan-7b", _of("baichuan-inc", "Baichuan-7B"), Shape(32, 4096, 11_008, (32, 32), 64_000, 4096), BIN),
    KnownModel(
        "baichuan-13b",
        _of("baichuan-inc", "Baichuan-13B-Base", "Baichuan-13B-Chat"),
        Shape(40, 5120, 13_696, (40, 40), 64_000, 4096),
        BIN,
    ),
    KnownModel(
        "baichuan2-7b",
        _of("baichuan-inc", "Baichuan2-7B-Base", "Baichuan2-7B-Chat"),
        Shape(32, 4096, 11_008, (32, 32), 125_696, 4096),
        BIN,
    ),
    KnownModel(
        "baichuan2-13b",
        _of("baichuan-inc", "Baichuan2-13B-Base", "Baichuan2-13B-Chat"),
        Shape(40, 5120, 13_696, (40, 40), 125_696, 4096),
        BIN,
    ),
)
