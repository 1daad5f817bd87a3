"""Random weights of a shape in a stored format, made where they are wanted: 8 billion in seconds, not minutes."""

import zlib
from collections.abc import Iterator

import torch
from torch import Tensor

from common.manifest import Architecture, Quantization
from shard_worker.checkpoint.layout import DTYPES, TensorSpec, expected_tensors
from shard_worker.checkpoint.source import row_blocks
from shard_worker.checkpoint.weight_shapes import Dtype, matrix_format, weight_shapes

# Standard deviations of what is drawn: uniform in -127..127, and in 0..15.
_STD_INT8 = 73.3
_STD_INT4 = 4.61


class RandomWeights:
    """A checkpoint's tensors (`TensorSource` of the loader, `Tensors` of the writer); activations stay finite.

    The same name gives the same bits on the same kind of device, whoever asks and in whichever order.
    """

    def __init__(self, architecture: Architecture, quantization: Quantization, dtype: Dtype, device: torch.device):
        self._specs = expected_tensors(architecture, dtype, quantization)
        self._columns = {name: shape[-1] for name, shape in weight_shapes(architecture).items()}
        self._quantization, self._dtype, self._device = quantization, dtype, device

    def read(self, name: str, dim: int | None = None, start: int = 0, stop: int | None = None) -> Tensor:
        """Return a tensor, or its range [start, stop) along `dim`."""
        whole = self._made(name, self._specs[name])
        return whole if dim is None else whole.narrow(dim, start, (whole.shape[dim] if stop is None else stop) - start)

    def finish(self) -> None:
        """Nothing is left over here."""

    def blocks(self, name: str) -> Iterator[Tensor]:
        """Yield the tensor's rows on the CPU, in the type it is stored in."""
        whole = self._made(name, self._specs[name]).cpu()
        for rows in row_blocks(len(whole), max(1, whole[0].numel())):
            yield whole[rows]

    def _made(self, name: str, spec: TensorSpec) -> Tensor:
        generator = torch.Generator(self._device).manual_seed(zlib.crc32(name.encode()))
        matrix, _, part = name.rpartition(".")
        if part == "q":
            low, high = (-127, 128) if spec.dtype == torch.int8 else (0, 256)
            empty = torch.empty(spec.shape, dtype=spec.dtype, device=self._device)
            return empty.random_(low, high, generator=generator)
        if part in ("scale", "zero"):
            is_int8 = matrix_format(matrix, self._quantization).mode == "int8"
            scale = self._columns[matrix] ** -0.5 / (_STD_INT8 if is_int8 else _STD_INT4)
            # Half a step up, since 0 to 15 has its middle at 7.5.
            value = scale if part == "scale" else scale / 2
            return torch.full(spec.shape, value, dtype=spec.dtype, device=self._device)
        if len(spec.shape) == 1:
            return torch.ones(spec.shape, dtype=spec.dtype, device=self._device)
        bound = (3.0 / spec.shape[1]) ** 0.5
        empty = torch.empty(spec.shape, dtype=DTYPES[self._dtype], device=self._device)
        return empty.uniform_(-bound, bound, generator=generator)
