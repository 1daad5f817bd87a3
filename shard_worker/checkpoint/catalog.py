"""The models that are known by name: where each is published, and its shape.

For lists, sizes and names to download. What is served is read from a checkpoint's own config.json, never from here.
Shapes are those of the models' config.json on the Hugging Face hub; stories* of karpathy/llama2.c.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from common.manifest import Architecture, Experts, Rope, Variations


@dataclass(frozen=True)
class Shape:
    """What decides a model's size. heads: of queries, and of keys and values. head_dim 0: hidden size / query heads."""

    layers: int
    hidden_size: int
    intermediate_size: int
    heads: tuple[int, int]
    vocabulary_size: int
    context_length: int
    head_dim: int = 0
    tied: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    output_norms: bool = False
    experts: tuple[int, int] | None = None  # how many, and how many a token goes to

    @property
    def is_plain(self) -> bool:
        """Whether this is Llama as it is."""
        return not (self.qkv_bias or self.qk_norm or self.output_norms or self.experts)

    def architecture(self, rope: Rope | None = None) -> Architecture:
        """Return the shape as far as sizes go; of a plain Llama that is all, where its `rope` is given."""
        return Architecture.model_construct(
            family="llama",
            layers=self.layers,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            query_heads=self.heads[0],
            kv_heads=self.heads[1],
            head_dim=self.head_dim or self.hidden_size // self.heads[0],
            vocabulary_size=self.vocabulary_size,
            context_length=self.context_length,
            norm_eps=1e-5,
            rope=rope or Rope(theta=10_000.0),
            tied_embeddings=self.tied,
            variations=None if self.is_plain else self._variations(),
        )

    def _variations(self) -> Variations:
        return Variations.model_construct(
            qkv_bias=self.qkv_bias,
            qk_norm=self.qk_norm,
            output_norms=self.output_norms,
            experts=None if self.experts is None else Experts(count=self.experts[0], per_token=self.experts[1]),
        )


@dataclass(frozen=True)
class KnownModel:
    """One model. `hub_ids` have this shape, the first is what the name means; `form` is how the weights come.

    `file` is the model's own where the repository holds several models.
    """

    name: str
    hub_ids: tuple[str, ...]
    shape: Shape
    form: str = "safetensors"
    file: str | None = None


def known_models() -> Mapping[str, KnownModel]:
    """Return all models by name, in the order they are shown in."""
    from shard_worker.checkpoint.catalog_entries import ENTRIES  # it names this module's classes

    return {entry.name: entry for entry in ENTRIES}
