"""The loaded library: a runner is a team of threads with the kernels of one instruction set."""

import ctypes
import weakref
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from common.errors import SettingsError
from shard_worker.native import build
from shard_worker.native.structures import CDraws, CMatrix, CModel, CPasses, CStep, Matrix

# Of csrc/api.cpp.
_NO_MEMORY = -1
_TOO_MANY, _NO_MEMORY_TO_COMPACT = -1, -2


class Runner:
    """Runs steps and products, one at a time. Not to be used by two threads at once.

    Raises SettingsError when the library is not built, or the processor lacks the instructions of `kernels`.
    """

    def __init__(self, threads: int, kernels: str = "") -> None:
        self._library = _open(build.path())
        handle = self._library.tandem_runner_new(kernels.encode(), threads)
        if not handle:
            raise SettingsError(f"the native kernels {kernels!r} cannot run on this processor")
        self._handle = ctypes.c_void_p(handle)
        weakref.finalize(self, self._library.tandem_runner_delete, self._handle)

    @property
    def kernels(self) -> str:
        """The instruction set in use: avx512_bf16, avx512_vnni, avx512, avx2 or portable."""
        name: bytes = self._library.tandem_runner_kernels(self._handle)
        return name.decode()

    @property
    def packs(self) -> bool:
        """Whether it multiplies packed matrices (packing.py), which takes integer products."""
        return bool(self._library.tandem_runner_packs(self._handle))

    def linear(self, x_MK: Tensor, matrix: Matrix, rounds: bool = False) -> Tensor:
        """Return float32[M, N]: x times the matrix's rows. x: float32[M, K] on the CPU.

        With `rounds` x may be rounded to bfloat16 first, where the processor is faster then.
        """
        assert x_MK.dtype == torch.float32 and x_MK.shape[1] == matrix.columns
        x_MK = x_MK.contiguous()
        out_MN = torch.empty(len(x_MK), matrix.rows, dtype=torch.float32)
        status = self._library.tandem_linear(
            self._handle, ctypes.byref(matrix.struct), x_MK.data_ptr(), len(x_MK), out_MN.data_ptr(), rounds
        )
        _check_memory(status)
        return out_MN

    def compact(self, weight_NK: Tensor, packed: Tensor, exceptions: Tensor) -> int | None:
        """Fill in a compact matrix (compact.py) and return how many exceptions it has; None where they do not fit."""
        assert weight_NK.dtype == torch.bfloat16 and weight_NK.is_contiguous()
        assert packed.is_contiguous() and exceptions.is_contiguous()
        count: int = self._library.tandem_compact(
            self._handle,
            weight_NK.data_ptr(),
            *weight_NK.shape,
            packed.data_ptr(),
            exceptions.data_ptr(),
            len(exceptions),
        )
        if count == _NO_MEMORY_TO_COMPACT:
            raise MemoryError("no memory for a matrix's exceptions")
        return None if count == _TOO_MANY else count

    def draw(self, draws: CDraws) -> None:
        """Fill in the records of a step's sampled positions."""
        _check_memory(self._library.tandem_draw(self._handle, ctypes.byref(draws)))

    def step(self, model: CModel, step: CStep) -> int:
        """Run a decoder step. Returns 0, or what the all-reduce that failed returned."""
        status: int = self._library.tandem_step(self._handle, ctypes.byref(model), ctypes.byref(step))
        _check_memory(status)
        return status

    def passes(self, model: CModel, passes: CPasses) -> int:
        """Run all passes of a step and draw from each. Returns as `step`."""
        status: int = self._library.tandem_passes(self._handle, ctypes.byref(model), ctypes.byref(passes))
        _check_memory(status)
        return status


def _check_memory(status: int) -> None:
    if status == _NO_MEMORY:
        raise MemoryError("no memory for a step's activations")


@cache
def _open(path: Path) -> ctypes.CDLL:
    if not path.is_file():
        raise SettingsError("the native kernels are not built: `python -m shard_worker.native.build`")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise SettingsError(f"the native kernels cannot be loaded: {error}") from error
    pointer, int32, int64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
    library.tandem_runner_new.argtypes, library.tandem_runner_new.restype = [ctypes.c_char_p, int32], pointer
    library.tandem_runner_delete.argtypes, library.tandem_runner_delete.restype = [pointer], None
    library.tandem_runner_kernels.argtypes, library.tandem_runner_kernels.restype = [pointer], ctypes.c_char_p
    library.tandem_runner_packs.argtypes, library.tandem_runner_packs.restype = [pointer], int32
    library.tandem_step.argtypes = [pointer, ctypes.POINTER(CModel), ctypes.POINTER(CStep)]
    library.tandem_passes.argtypes = [pointer, ctypes.POINTER(CModel), ctypes.POINTER(CPasses)]
    library.tandem_linear.argtypes = [pointer, ctypes.POINTER(CMatrix), pointer, int64, pointer, int32]
    library.tandem_compact.argtypes = [pointer, pointer, int64, int64, pointer, pointer, int64]
    library.tandem_compact.restype = int64
    library.tandem_draw.argtypes = [pointer, ctypes.POINTER(CDraws)]
    library.tandem_step.restype = library.tandem_passes.restype = int32
    library.tandem_linear.restype = library.tandem_draw.restype = int32
    return library
