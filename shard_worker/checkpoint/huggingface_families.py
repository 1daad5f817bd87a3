"""What each of the hub's model families adds to config.json, and what of it departs from Llama.

The formulas are those of transformers' own classes, whose defaults a missing key has.
"""

from typing import Literal

from common.manifest import Variations
from shard_worker.checkpoint.huggingface_base import HuggingFaceConfig, LayerType


class LlamaConfig(HuggingFaceConfig):
    """Llama 1 to 3.2 (Touvron et al. 2023) and what is built alike."""

    model_type: Literal["llama"]
    hidden_act: Literal["silu"] = "silu"
    rope_interleaved: Literal[False] = False
    sliding_window: None = None


class MistralConfig(HuggingFaceConfig):
    """Mistral 7B (Jiang et al. 2023): a sliding window in v0.1, none since."""

    model_type: Literal["mistral"]
    hidden_act: Literal["silu"] = "silu"
    sliding_window: int | None = 4096

    def variations(self) -> Variations | None:
        """Return the window; without one Mistral is plain Llama."""
        windows = self.windows(self.sliding_window, None)
        if not any(windows):
            return None
        return Variations.model_validate(self.llama_variations() | {"windows": windows})


class _QwenConfig(HuggingFaceConfig):
    hidden_act: Literal["silu"] = "silu"
    use_sliding_window: bool = False
    sliding_window: int | None = 4096
    max_window_layers: int = 28
    layer_types: list[LayerType] | None = None
    use_mrope: Literal[False] = False

    def qwen_windows(self) -> tuple[int | None, ...]:
        """Return each layer's window: of layers past `max_window_layers`, where windows are used at all."""
        later: list[LayerType] = [
            "sliding_attention" if index >= self.max_window_layers else "full_attention"
            for index in range(self.num_hidden_layers)
        ]
        full: list[LayerType] = ["full_attention"] * self.num_hidden_layers
        if not self.use_sliding_window:
            return self.windows(None, self.layer_types or full)
        return self.windows(self.sliding_window, self.layer_types or (later if self.sliding_window else full))


class Qwen2Config(_QwenConfig):
    """Qwen 2 and 2.5 (Yang et al. 2024): biases of queries, keys and values."""

    model_type: Literal["qwen2"]

    def variations(self) -> Variations:
        """Return biases and windows."""
        changes = {"qkv_bias": True, "windows": self.qwen_windows()}
        return Variations.model_validate(self.llama_variations() | changes)


class Qwen3Config(_QwenConfig):
    """Qwen 3 (Yang et al. 2025): norms of queries and keys instead."""

    model_type: Literal["qwen3"]
    head_dim: int | None = 128

    def variations(self) -> Variations:
        """Return norms and windows."""
        changes = {"qk_norm": True, "windows": self.qwen_windows()}
        return Variations.model_validate(self.llama_variations() | changes)


FAMILIES: dict[str, type[HuggingFaceConfig]] = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
}
"""By model_type."""
