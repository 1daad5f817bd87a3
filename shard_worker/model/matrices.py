"""A rank's part of the checkpoint's matrices: which bytes of each format a range of rows or columns is."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from common.manifest import Quantization
from shard_worker.checkpoint.weight_shapes import matrix_format
from shard_worker.model.linear import FloatLinear, Int4Linear, Int8Linear, Linear
from shard_worker.partition import Span


class TensorSource(Protocol):
    """Where full tensors can be read in slices; `shard_worker.checkpoint.reader.CheckpointReader` is one."""

    def read(self, name: str, dim: int | None = None, start: int = 0, stop: int | None = None) -> Tensor:
        """Return a tensor, or its range [start, stop) along `dim`."""
        ...

    def finish(self) -> None:
        """Raise CheckpointError when a tensor was never read."""
        ...


class MatrixReader:
    """Reads matrices of `source` onto `device`; float ones in `dtype`, quantised ones as they are stored."""

    def __init__(
        self, source: TensorSource, quantization: Quantization, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.source = source
        self._quantization = quantization
        self.dtype = dtype
        self._device = device

    def rows(self, parts: Sequence[tuple[str, Span]], columns: int, dtype: torch.dtype | None = None) -> Linear:
        """Return these rows of these matrices, which are stored alike and `columns` wide, below one another."""

        def joined(suffix: str) -> Tensor:
            tensors = [self.source.read(name + suffix, 0, span.start, span.stop) for name, span in parts]
            return self._placed(torch.cat(tensors) if len(tensors) > 1 else tensors[0])

        stored = matrix_format(parts[0][0], self._quantization)
        match stored.mode:
            case "none":
                return FloatLinear(joined("").to(dtype or self.dtype))
            case "int8":
                return Int8Linear(joined(".q"), joined(".scale"))
            case "int4":
                assert stored.group_size is not None
                return Int4Linear(joined(".q"), joined(".scale"), joined(".zero"), stored.group_size, columns)

    def columns(self, name: str, span: Span) -> Linear:
        """Return these columns of a matrix. An int4 one is cut between groups; `partition` sees to it."""

        def cut(suffix: str, start: int, stop: int) -> Tensor:
            return self._placed(self.source.read(name + suffix, 1, start, stop))

        stored = matrix_format(name, self._quantization)
        match stored.mode:
            case "none":
                return FloatLinear(cut("", span.start, span.stop).to(self.dtype))
            case "int8":
                return Int8Linear(cut(".q", span.start, span.stop), self._placed(self.source.read(f"{name}.scale")))
            case "int4":
                group_size = stored.group_size
                assert group_size is not None and span.start % group_size == 0, (name, span)
                groups = span.start // group_size, -(-span.stop // group_size)
                packed = cut(".q", span.start // 2, -(-span.stop // 2))
                return Int4Linear(packed, cut(".scale", *groups), cut(".zero", *groups), group_size, span.size)

    def _placed(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device).contiguous()
