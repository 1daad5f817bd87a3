"""The list of a checkpoint's tensors."""

import torch

from common.manifest import Architecture, Quantization, Rope
from shard_worker.checkpoint.layout import TensorSpec, expected_tensors


def architecture(tied: bool) -> Architecture:
    return Architecture(
        family="llama",
        layers=2,
        hidden_size=32,
        intermediate_size=48,
        query_heads=4,
        kv_heads=2,
        head_dim=16,
        vocabulary_size=40,
        context_length=128,
        norm_eps=1e-5,
        rope=Rope(theta=10_000.0),
        tied_embeddings=tied,
    )


def test_shapes_follow_heads_and_head_dim() -> None:
    tensors = expected_tensors(architecture(tied=False), "bfloat16")
    shapes = {name.removeprefix("layers.1."): spec.shape for name, spec in tensors.items()}
    assert shapes["attention.query.weight"] == (64, 32)
    assert shapes["attention.key.weight"] == shapes["attention.value.weight"] == (32, 32)
    assert shapes["attention.output.weight"] == (32, 64)
    assert shapes["feed_forward.gate.weight"] == shapes["feed_forward.up.weight"] == (48, 32)
    assert shapes["feed_forward.down.weight"] == (32, 48)
    assert shapes["embedding.weight"] == shapes["head.weight"] == (40, 32)
    assert len(tensors) == 2 * 9 + 3


def test_norms_are_float32_whatever_the_manifest_says() -> None:
    for name, spec in expected_tensors(architecture(tied=True), "bfloat16").items():
        assert spec.dtype == (torch.float32 if "norm" in name else torch.bfloat16), name
        assert spec.num_bytes == torch.empty(spec.shape, dtype=spec.dtype).nbytes


def test_tied_embeddings_have_no_head() -> None:
    tied, untied = (expected_tensors(architecture(t), "float32").keys() for t in (True, False))
    assert untied - tied == {"head.weight"}


def test_int8_matrices_have_a_scale_a_row() -> None:
    stated = Quantization(mode="int8", method="round-to-nearest", embedding="int8")
    tensors = expected_tensors(architecture(tied=False), "bfloat16", stated)
    assert tensors["layers.1.feed_forward.down.weight.q"] == TensorSpec((32, 48), torch.int8)
    assert tensors["layers.1.feed_forward.down.weight.scale"] == TensorSpec((32,), torch.float32)
    assert tensors["head.weight.q"] == TensorSpec((40, 32), torch.int8)
    assert tensors["layers.0.attention_norm.weight"] == TensorSpec((32,), torch.float32)
    assert len(tensors) == 2 * (2 + 7 * 2) + 2 * 2 + 1


def test_int4_matrices_have_groups_that_do_not_straddle_heads() -> None:
    stated = Quantization(mode="int4", method="gptq", group_size=32, head_group_size=16)
    tensors = expected_tensors(architecture(tied=True), "float16", stated)
    assert tensors["layers.0.feed_forward.down.weight.q"] == TensorSpec((32, 24), torch.uint8)
    assert tensors["layers.0.feed_forward.down.weight.scale"] == TensorSpec((32, 2), torch.bfloat16)
    assert tensors["layers.0.feed_forward.down.weight.zero"] == TensorSpec((32, 2), torch.bfloat16)
    assert tensors["layers.0.attention.output.weight.scale"] == TensorSpec((32, 4), torch.bfloat16)
    assert tensors["embedding.weight"] == TensorSpec((40, 32), torch.float16)
    assert len(tensors) == 2 * (2 + 7 * 3) + 2
