"""Where Meta's layout, and gpt-fast's, keep each of our tensors: names, and how ranks cut them."""

import re
from dataclasses import dataclass
from typing import Literal

EMBEDDING, HEAD = "tok_embeddings.weight", "output.weight"
FUSED = "attention.wqkv"
# Buffers: the rope's frequencies repeat what params.json says.
HARMLESS_TENSORS = re.compile(r"rope\.freqs|freqs_(cis|cos|sin)")

Cut = Literal["rows", "columns", "either", "copied"]

_OUTER_PLACES: dict[str, tuple[str, Cut]] = {
    "embedding.weight": (EMBEDDING, "either"),  # columns up to Llama 2, rows since Llama 3
    "norm.weight": ("norm.weight", "copied"),
    "head.weight": (HEAD, "rows"),
}
_LAYER_PLACES: dict[str, tuple[str, Cut]] = {
    "attention_norm": ("attention_norm", "copied"),
    "attention.query": ("attention.wq", "rows"),
    "attention.key": ("attention.wk", "rows"),
    "attention.value": ("attention.wv", "rows"),
    "attention.output": ("attention.wo", "columns"),
    "feed_forward_norm": ("ffn_norm", "copied"),
    "feed_forward.gate": ("feed_forward.w1", "rows"),
    "feed_forward.up": ("feed_forward.w3", "rows"),
    "feed_forward.down": ("feed_forward.w2", "columns"),
}
_IN_FUSED = ("attention.query", "attention.key", "attention.value")


@dataclass(frozen=True)
class MetaPlace:
    """The stored tensor that holds ours, and along which axis Meta's ranks cut it.

    `fused` says that ours is only a part of its rows: queries, then keys, then values. `rotated` rows are in Meta's
    order of a head's dimensions.
    """

    stored: str
    cut: Cut
    rotated: bool = False
    fused: bool = False


def meta_place(name: str, fused: bool) -> MetaPlace | None:
    """Return where our tensor `name` lies, None for one that this layout does not know. `fused`: gpt-fast's wqkv."""
    if name in _OUTER_PLACES:
        return MetaPlace(*_OUTER_PLACES[name])
    _, layer, rest = name.split(".", 2)
    part, _, kind = rest.rpartition(".")
    if part not in _LAYER_PLACES or kind != "weight":
        return None
    stored, cut = _LAYER_PLACES[part]
    rotated = part in ("attention.query", "attention.key")
    if fused and part in _IN_FUSED:
        return MetaPlace(f"layers.{layer}.{FUSED}.weight", "rows", rotated, fused=True)
    return MetaPlace(f"layers.{layer}.{stored}.weight", cut, rotated)
