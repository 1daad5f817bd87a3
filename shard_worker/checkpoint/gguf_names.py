"""Where a GGUF file keeps each of our tensors. Names: the `gguf` package's MODEL_TENSORS."""

from collections.abc import Container

from common.manifest import Architecture
from shard_worker.checkpoint.huggingface_names import EXPERT, PHI3_NAMES, Place

_OUTER_NAMES = {
    "embedding.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "head.weight": "output.weight",
}
_LAYER_NAMES = {
    "attention_norm": "attn_norm",
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.output": "attn_output",
    "attention.query_norm": "attn_q_norm",
    "attention.key_norm": "attn_k_norm",
    "attention_output_norm": "post_attention_norm",
    "feed_forward_norm": "ffn_norm",
    "feed_forward.router": "ffn_gate_inp",
    "feed_forward.gate": "ffn_gate",
    "feed_forward.up": "ffn_up",
    "feed_forward.down": "ffn_down",
    "feed_forward_output_norm": "post_ffw_norm",
}
# What Phi 3 fuses, by where the hub keeps it, and a tensor that is there only where it is not fused.
_FUSED_NAMES = {"self_attn.qkv_proj": ("attn_qkv", "attn_q"), "mlp.gate_up_proj": ("ffn_up", "ffn_gate")}


def gguf_place(name: str, architecture: Architecture, stored: Container[str]) -> Place:
    """Return which rows of which tensor our tensor `name` is in a file that has the tensors `stored`.

    Experts lie in one tensor of three dimensions, counted here as that many times the rows; files from before 2024
    have a tensor for each. Phi 3 has query, key and value below one another, and gate above up.
    """
    if name in _OUTER_NAMES:
        return Place(_OUTER_NAMES[name])
    _, layer, rest = name.split(".", 2)
    part, _, kind = rest.rpartition(".")
    prefix = f"blk.{layer}."
    if expert := EXPERT.fullmatch(part):
        at, matrix = int(expert[1]), _LAYER_NAMES[f"feed_forward.{expert[2]}"]
        if f"{prefix}{matrix}.{at}.{kind}" in stored:
            return Place(f"{prefix}{matrix}.{at}.{kind}")
        rows = architecture.hidden_size if expert[2] == "down" else architecture.intermediate_size
        return Place(f"{prefix}{matrix}_exps.{kind}", at * rows, (at + 1) * rows)
    if architecture.family == "phi3" and (hub := PHI3_NAMES.place(name, architecture)).stop is not None:
        fused, unfused = _FUSED_NAMES[hub.stored.removeprefix(f"model.layers.{layer}.").removesuffix(f".{kind}")]
        if f"{prefix}{unfused}.{kind}" not in stored:
            return Place(f"{prefix}{fused}.{kind}", hub.start, hub.stop)
    return Place(f"{prefix}{_LAYER_NAMES[part]}.{kind}")
