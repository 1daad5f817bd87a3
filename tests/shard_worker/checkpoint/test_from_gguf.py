"""Models from GGUF files."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

from common.errors import CheckpointError
from shard_worker.checkpoint import source
from shard_worker.checkpoint.from_gguf import open_gguf
from shard_worker.checkpoint.layout import expected_tensors

MakeModel = Callable[..., Any]
WriteGguf = Callable[..., Path]


def read(path: Path) -> dict[str, torch.Tensor]:
    model = open_gguf(path)
    names = expected_tensors(model.architecture, "float32")
    return {name: torch.cat(list(model.tensors.blocks(name))) for name in names}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("block_elements", [100, 1 << 22])
def test_tensors_come_back_in_half_split_order(
    make_model: MakeModel, write_gguf: WriteGguf, monkeypatch: pytest.MonkeyPatch, tied: bool, block_elements: int
) -> None:
    monkeypatch.setattr(source, "BLOCK_ELEMENTS", block_elements)
    model, tensors = make_model(tied_embeddings=tied)
    path = write_gguf(model, tensors)
    assert open_gguf(path).architecture == model.architecture
    back = read(path)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(back[name], tensor), name


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_matrices_are_dequantised(make_model: MakeModel, write_gguf: WriteGguf, kind: str) -> None:
    model, tensors = make_model(hidden_size=64, intermediate_size=64, head_dim=16)
    quantisation = GGMLQuantizationType[kind]
    back = read(write_gguf(model, tensors, kind=quantisation))
    for name, tensor in tensors.items():
        if tensor.ndim == 2:
            expected = dequantize(quantize(tensor.numpy(), quantisation), quantisation)
            assert np.array_equal(back[name].numpy(), expected), name
            assert np.allclose(expected, tensor.numpy(), atol=0.4)


def reference_q4_k(block: npt.NDArray[np.uint8]) -> list[float]:
    """Return the 256 values of a Q4_K block (`dequantize_row_q4_K` in ggml-quants.c)."""
    d, dmin = (float(x) for x in block[:4].view(np.float16))
    packed, quants = block[4:16].astype(int), block[16:].astype(int)
    values = []
    for j in range(8):
        if j < 4:
            scale, minimum = packed[j] & 63, packed[j + 4] & 63
        else:
            scale = (packed[j + 4] & 0xF) | ((packed[j - 4] >> 6) << 4)
            minimum = (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4)
        for q in quants[32 * (j // 2) : 32 * (j // 2) + 32]:
            values.append(d * scale * ((q >> 4) if j % 2 else (q & 0xF)) - dmin * minimum)
    return values


def reference_q6_k(block: npt.NDArray[np.uint8]) -> list[float]:
    """Return the 256 values of a Q6_K block (`dequantize_row_q6_K` in ggml-quants.c)."""
    low, high = block[:128].astype(int), block[128:192].astype(int)
    scales = block[192:208].view(np.int8).astype(int)
    d = float(block[208:210].view(np.float16)[0])
    values = [0.0] * 256
    for half in range(2):
        for i in range(32):
            ql, qh = low[64 * half :], high[32 * half + i]
            quarters = (
                (ql[i] & 0xF) | ((qh & 3) << 4),
                (ql[i + 32] & 0xF) | (((qh >> 2) & 3) << 4),
                (ql[i] >> 4) | (((qh >> 4) & 3) << 4),
                (ql[i + 32] >> 4) | (((qh >> 6) & 3) << 4),
            )
            for k, q in enumerate(quarters):
                values[128 * half + 32 * k + i] = d * scales[8 * half + i // 16 + 2 * k] * (q - 32)
    return values


def by_the_package(kind: str, block: npt.NDArray[np.uint8]) -> list[float]:
    """Return the 256 values of a block by the gguf package."""
    values: list[float] = dequantize(block[np.newaxis], GGMLQuantizationType[kind])[0].tolist()
    return values


@pytest.mark.parametrize(
    ("kind", "halves", "reference"),
    [
        ("Q2_K", slice(80, 84), partial(by_the_package, "Q2_K")),
        ("Q3_K", slice(108, 110), partial(by_the_package, "Q3_K")),
        ("Q4_K", slice(0, 4), reference_q4_k),
        ("Q5_K", slice(0, 4), partial(by_the_package, "Q5_K")),
        ("Q6_K", slice(208, 210), reference_q6_k),
    ],
)
def test_k_quants_are_dequantised(
    make_model: MakeModel,
    write_gguf: WriteGguf,
    kind: str,
    halves: slice,
    reference: Callable[[npt.NDArray[np.uint8]], list[float]],
) -> None:
    # The package cannot quantise to these types: random blocks with sane scales stand in for a model.
    _, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    random = np.random.default_rng(2)
    packed: list[npt.NDArray[np.uint8]] = []

    def random_blocks(array: npt.NDArray[np.float32], type: GGMLQuantizationType) -> npt.NDArray[Any]:
        if type.name != kind:
            return array
        blocks = random.integers(256, size=(array.size // 256, block_bytes), dtype=np.uint8)
        scales = random.uniform(0.001, 0.1, size=(len(blocks), (halves.stop - halves.start) // 2))
        blocks[:, halves] = scales.astype(np.float16).view(np.uint8)
        packed.append(blocks)
        return blocks.reshape(array.shape[0], -1)

    model, tensors = make_model(layers=1, hidden_size=256, intermediate_size=256, head_dim=64, vocabulary_size=16)
    back = read(write_gguf(model, tensors, kind=GGMLQuantizationType[kind], quantise=random_blocks))
    expected = [reference(block) for block in packed[0]]  # the embedding is written first
    assert np.allclose(back["embedding.weight"].numpy(), np.array(expected).reshape(16, 256), rtol=1e-5, atol=1e-6)


def test_what_the_metadata_say(make_model: MakeModel, write_gguf: WriteGguf) -> None:
    model, tensors = make_model()
    path = write_gguf(model, tensors, {"tokenizer.ggml.eot_token_id": 5, "tokenizer.ggml.padding_token_id": 3})
    opened = open_gguf(path)
    assert opened.source == "model.gguf"
    assert open_gguf(path, source="elsewhere").source == "elsewhere"
    assert opened.end_of_text_ids == (0, 5)
    assert opened.chat_template == "{{ messages }}"
    assert opened.architecture.norm_eps == 1e-5, "the float32 of the file is read back as the decimal it was"


def test_defaults_of_missing_keys(make_model: MakeModel, write_gguf: WriteGguf) -> None:
    model, tensors = make_model(kv_heads=4, head_dim=8)
    keys = ("llama.attention.head_count_kv", "llama.attention.key_length", "llama.attention.value_length")
    missing = dict.fromkeys((*keys, "llama.rope.freq_base", "tokenizer.chat_template", "tokenizer.ggml.eos_token_id"))
    opened = open_gguf(write_gguf(model, tensors, missing))
    assert opened.architecture == model.architecture
    assert (opened.chat_template, opened.end_of_text_ids) == (None, ())


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"llama.rope.scaling.type": "yarn"}, "rope scaling 'yarn'"),
        ({"llama.rope.scaling.factor": 2.0}, r"llama\.rope\.scaling\.factor"),
        ({"llama.expert_count": 8}, r"llama\.expert_used_count is missing"),
        ({"llama.expert_shared_count": 8}, r"llama\.expert_shared_count"),
        ({"llama.attention.scale": 0.5}, r"llama\.attention\.scale"),
        ({"llama.attention.causal": False}, r"llama\.attention\.causal is false"),
        ({"llama.attention.key_length": 0}, r"llama\.attention\.key_length is 0"),
        ({"llama.rope.freq_base": -1.0}, r"llama\.rope\.freq_base is -1"),
        ({"general.type": "adapter"}, "general.type is 'adapter'"),
        ({"split.count": 2}, "split.count is 2: join the files"),
        ({"llama.rope.dimension_count": 8}, r"llama\.rope\.dimension_count is 8; only 16"),
        ({"llama.attention.value_length": 8}, r"llama\.attention\.value_length is 8"),
        ({"llama.vocab_size": 41}, r"llama\.vocab_size is 41"),
        ({"llama.block_count": None}, r"llama\.block_count is missing"),
        ({"llama.block_count": "two"}, r"llama\.block_count is str, not int"),
        ({"llama.block_count": True}, r"llama\.block_count is bool, not int"),
        ({"llama.attention.head_count": [4, 2]}, r"llama\.attention\.head_count is an array"),
        ({"llama.attention.head_count": 0}, r"llama\.attention\.head_count is 0"),
        ({"llama.attention.layer_norm_rms_epsilon": 0.0}, "do not make an architecture"),
        ({"llama.block_count": 1 << 31}, r"block_count is 2147483648, of 21 tensors"),
        ({"llama.block_count": 3}, "GGUF tensors are missing: blk.2.attn_k.weight"),
        ({"llama.block_count": 1}, "not supported: blk.1.attn_k.weight"),
        ({"llama.embedding_length": 64}, r"token_embd.weight is \(40, 32\), not \(40, 64\)"),
        ({"tokenizer.ggml.precompiled_charsmap": [1, 2]}, r"tokenizer\.ggml\.precompiled_charsmap"),
    ],
)
def test_unsupported_metadata_are_named(
    make_model: MakeModel, write_gguf: WriteGguf, entries: dict[str, Any], reason: str
) -> None:
    with pytest.raises(CheckpointError, match=reason):
        open_gguf(write_gguf(*make_model(), entries=entries))


def test_unsupported_tensors_are_named(make_model: MakeModel, write_gguf: WriteGguf) -> None:
    model, tensors = make_model(hidden_size=64, intermediate_size=64)
    path = write_gguf(model, tensors, tensors={"rope_factors_long.weight": np.ones(8, np.float32)})
    with pytest.raises(CheckpointError, match=r"not supported: rope_factors_long\.weight"):
        open_gguf(path)

    def nonlinear(array: npt.NDArray[np.float32], kind: GGMLQuantizationType) -> npt.NDArray[Any]:
        is_matrix = kind == GGMLQuantizationType.IQ4_NL
        return np.zeros((array.shape[0], array.shape[1] // 32 * 18), np.uint8) if is_matrix else array

    with pytest.raises(CheckpointError, match=r"token_embd\.weight has type IQ4_NL"):
        open_gguf(write_gguf(model, tensors, kind=GGMLQuantizationType.IQ4_NL, quantise=nonlinear))
    del tensors["embedding.weight"]
    with pytest.raises(CheckpointError, match=r"token_embd\.weight is missing"):
        open_gguf(write_gguf(model, tensors))


def test_another_architecture_is_named(make_model: MakeModel, write_gguf: WriteGguf) -> None:
    path = write_gguf(*make_model())
    path.write_bytes(path.read_bytes().replace(b"llama", b"bloom", 1))
    with pytest.raises(CheckpointError, match="architecture 'bloom'"):
        open_gguf(path)
