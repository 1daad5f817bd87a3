"""The shapes of a model's weights, and how each is stored. No torch in here: what fits where is asked without it."""

from dataclasses import dataclass
from typing import Literal

from common.manifest import Architecture, Quantization

Dtype = Literal["float32", "bfloat16", "float16"]
ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "uint8": 1}


@dataclass(frozen=True)
class MatrixFormat:
    """How one matrix is stored. `group_size` counts columns and is None except for int4."""

    mode: Literal["none", "int8", "int4"]
    group_size: int | None = None


def matrix_format(name: str, quantization: Quantization) -> MatrixFormat:
    """Return how the matrix `name`, such as layers.0.attention.query.weight, is stored."""
    if name.endswith(".router.weight"):  # a few rows that decide which experts compute
        return MatrixFormat("none")
    if name in ("embedding.weight", "head.weight"):
        return MatrixFormat(quantization.embedding)
    if name.endswith(".attention.output.weight"):
        return MatrixFormat(quantization.mode, quantization.head_group_size)
    return MatrixFormat(quantization.mode, quantization.group_size)


def weight_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight: norms and biases [width], matrices [output features, input features]."""
    a = architecture
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (a.vocabulary_size, a.hidden_size)}
    for i in range(a.layers):
        shapes |= {f"layers.{i}.{name}": shape for name, shape in _layer_shapes(a).items()}
    shapes["norm.weight"] = (a.hidden_size,)
    if not a.tied_embeddings:
        shapes["head.weight"] = (a.head_size or a.vocabulary_size, a.hidden_size)
    return shapes


def _layer_shapes(a: Architecture) -> dict[str, tuple[int, ...]]:
    v, width, wide = a.variations, a.hidden_size, a.intermediate_size
    rows = {"query": a.query_heads * a.head_dim, "key": a.kv_heads * a.head_dim, "value": a.kv_heads * a.head_dim}
    shapes: dict[str, tuple[int, ...]] = {"attention_norm.weight": (width,)}
    shapes |= {f"attention.{role}.weight": (size, width) for role, size in rows.items()}
    if v is not None and v.qkv_bias:
        shapes |= {f"attention.{role}.bias": (size,) for role, size in rows.items()}
    if v is not None and v.qk_norm:
        shapes |= {f"attention.{role}_norm.weight": (a.head_dim,) for role in ("query", "key")}
    shapes["attention.output.weight"] = (width, rows["query"])
    if v is not None and v.output_norms:
        shapes["attention_output_norm.weight"] = (width,)
    shapes["feed_forward_norm.weight"] = (width,)
    experts = None if v is None else v.experts
    if experts is not None:
        shapes["feed_forward.router.weight"] = (experts.count, width)
    for prefix in feed_forward_prefixes(a):
        shapes |= {
            f"{prefix}.gate.weight": (wide, width),
            f"{prefix}.up.weight": (wide, width),
            f"{prefix}.down.weight": (width, wide),
        }
    if v is not None and v.output_norms:
        shapes["feed_forward_output_norm.weight"] = (width,)
    return shapes


def feed_forward_prefixes(architecture: Architecture) -> list[str]:
    """Return what the names of a layer's feed-forward matrices begin with: of the one network, or of each expert."""
    experts = None if architecture.variations is None else architecture.variations.experts
    return ["feed_forward"] if experts is None else [f"feed_forward.experts.{e}" for e in range(experts.count)]


def stored_parts(shape: tuple[int, ...], dtype: Dtype, stored: MatrixFormat) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the tensors that a matrix [rows, columns] is stored as: by suffix of its name, their shape and type."""
    rows, columns = shape
    match stored.mode:
        case "none":
            return {"": (shape, dtype)}
        case "int8":
            return {".q": (shape, "int8"), ".scale": ((rows,), "float32")}
        case "int4":
            assert stored.group_size is not None
            groups = (rows, -(-columns // stored.group_size))
            packed = (rows, -(-columns // 2))
            return {".q": (packed, "uint8"), ".scale": (groups, "bfloat16"), ".zero": (groups, "bfloat16")}
