"""A safetensors file as a stream of bytes, one block of one tensor at a time: the library would need all at once."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from common.errors import CheckpointError
from shard_worker.checkpoint.layout import SAFETENSORS_DTYPES, TensorSpec

DTYPE_CODES = {dtype: code for code, dtype in SAFETENSORS_DTYPES.items()}

Blocks = Callable[[str], Iterable[torch.Tensor]]


def serialised(
    specs: Mapping[str, TensorSpec],
    blocks: Blocks,
    count: Callable[[int], None],
    metadata: Mapping[str, str] | None = None,
) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a safetensors file that holds `specs`, first the header, then a chunk for each block.

    `blocks` gives a tensor's rows from first to last; `count` is told each block's bytes. Format: header
    length (u64), JSON header, tensors without gaps, little endian
    (https://github.com/huggingface/safetensors#format). Raises CheckpointError when the blocks do not make a tensor's
    shape.
    """
    # Wider types first, so that every tensor is aligned to its own element size.
    ordered = dict(sorted(specs.items(), key=lambda item: -item[1].dtype.itemsize))
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, spec in ordered.items():
        offsets = [offset, offset + spec.num_bytes]
        header[name] = {"dtype": DTYPE_CODES[spec.dtype], "shape": spec.shape, "data_offsets": offsets}
        offset += spec.num_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name, spec in ordered.items():
        rows = 0
        for block in blocks(name):
            if block.shape[1:] != spec.shape[1:]:
                raise CheckpointError(f"{name}: shape [*, {list(block.shape[1:])}], not {list(spec.shape)}")
            assert block.is_floating_point() or block.dtype == spec.dtype, name
            rows += block.shape[0]
            stored = block.to(spec.dtype).contiguous()
            yield stored.view(torch.uint8).numpy().data.cast("B")
            count(stored.nbytes)
        if rows != spec.shape[0]:
            raise CheckpointError(f"{name}: {rows} rows, not {spec.shape[0]} ({math.prod(spec.shape)} elements)")
