"""config.json of families that are on the hub as custom code only: Grok-1 and Baichuan. The code is never run."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from common.errors import CheckpointError
from common.manifest import Variations
from shard_worker.checkpoint.huggingface_base import AutoMap, HuggingFaceConfig
from shard_worker.checkpoint.huggingface_names import BAICHUAN2_NAMES, BAICHUAN_NAMES, GROK_NAMES, HubNames
from shard_worker.checkpoint.huggingface_rope import RopeType

BAICHUAN2_VOCABULARY = 125_696


class _CustomConfig(HuggingFaceConfig):
    rope_types: ClassVar[tuple[RopeType, ...]] = ("default",)

    auto_map: AutoMap = Field(default_factory=dict)


class GrokConfig(_CustomConfig):
    """Grok-1 as hpcai-tech/grok-1 stores it; the maths is that of xAI's own code (xai-org/grok-1, model.py).

    Of the two chosen experts' weights xAI's code makes no sum of 1, and its GELU is the tanh approximation.
    """

    names: ClassVar[HubNames] = GROK_NAMES

    model_type: Literal["grok-1"]
    num_key_value_heads: int | None
    hidden_act: Literal["gelu"] = "gelu"
    tie_word_embeddings: bool
    attn_output_multiplier: float = Field(gt=0)
    max_attn_value: float = Field(gt=0)
    embedding_multiplier_scale: float = Field(gt=0)
    output_multiplier_scale: float = Field(gt=0)
    num_experts: int
    num_experts_per_tok: int
    output_router_logits: bool = False  # this and the next one are of training
    router_aux_loss_coef: float = 0.0

    def variations(self) -> Variations:
        """Return scales, cap, norms and experts."""
        changes: dict[str, Any] = {
            "activation": "gelu_tanh",
            "output_norms": True,
            "embedding_scale": self.embedding_multiplier_scale,
            "attention_scale": self.attn_output_multiplier,
            "attention_soft_cap": self.max_attn_value,
            "logit_scale": self.output_multiplier_scale,
            "experts": {"count": self.num_experts, "per_token": self.num_experts_per_tok, "normalized": False},
        }
        return Variations.model_validate(self.llama_variations() | changes)


class BaichuanConfig(_CustomConfig):
    """Baichuan 1 and 2 (Yang et al. 2023): Llama with one matrix for queries, keys and values.

    The files tell the models apart by their keys: 7B has rotated positions and states max_position_embeddings, 13B has
    linear biases (ALiBi) and states model_max_length alone; only Baichuan 2 has z_loss_weight, a weight of training,
    and rows of the head that are normalised before use.
    """

    model_type: Literal["baichuan"]
    max_position_embeddings: int | None = None  # type: ignore[assignment]
    model_max_length: int | None = None
    hidden_act: Literal["silu"] = "silu"
    num_key_value_heads: None = None
    head_dim: None = None
    rope_theta: None = None
    z_loss_weight: float | None = None

    @property
    def names(self) -> HubNames:  # type: ignore[override]
        """Where the tensors lie, and whether the head's rows are normalised."""
        return BAICHUAN_NAMES if self.z_loss_weight is None else BAICHUAN2_NAMES

    def variations(self) -> Variations | None:
        """Return the linear biases of 13B; 7B is plain Llama."""
        if self.z_loss_weight is None and self.vocab_size == BAICHUAN2_VOCABULARY:
            raise CheckpointError(
                "config.json has Baichuan 2's vocab_size, but z_loss_weight, which marks it, is missing"
            )
        if self.max_position_embeddings is not None:
            return None
        if self.model_max_length is None:
            raise CheckpointError("config.json: neither max_position_embeddings nor model_max_length is there")
        return Variations.model_validate(self.llama_variations() | {"alibi": True, "rotary_dim": 0})

    def context_length(self) -> int:
        """Return what is stated under either key."""
        return self.max_position_embeddings or self.model_max_length or 0
