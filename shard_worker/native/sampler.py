"""Sampling records in native code: no tensor is made, and noise is computed exactly only where it may win."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from shard_worker.model.trimmed_head import TrimmedHead
from shard_worker.native.library import Runner
from shard_worker.native.structures import CDraws
from shard_worker.sampling.processing import penalised_and_biased
from shard_worker.sampling.records import PackedRecords, UndrawnStep
from shard_worker.sampling.state import SequenceState

# In the order of csrc/decoder.h: each list's ids and what is told of them, and the sums.
_NOISED = ("noised_ids", "noised_scores", "noised_processed", "noised_raw")
_TOP, _RAW = ("top_ids", "top_processed"), ("raw_ids", "raw_logits")
_SUMS = ("processed_lse", "raw_lse")
_NAMES = (*_NOISED, *_TOP, *_RAW, *_SUMS)


class NativeSampler:
    """Draws from the logits of one rank's slice of the vocabulary, whose first id is `first_id`.

    Logits of a trimmed head are either those of its own tokens or of all.
    """

    def __init__(self, runner: Runner, first_id: int, trimmed: TrimmedHead | None = None) -> None:
        self._runner, self._first_id, self._trimmed = runner, first_id, trimmed
        self._kept_ids_N = None if trimmed is None else F.pad(trimmed.ids_N.int(), (0, -len(trimmed.ids_N) % 64))

    @property
    def kept_ids(self) -> int | None:
        """Where the ids of a trimmed head's tokens lie in memory, int32, for as long as this object lives."""
        return None if self._kept_ids_N is None else self._kept_ids_N.data_ptr()

    def __call__(
        self,
        raw_PV: Tensor,
        states: Sequence[SequenceState],
        positions: Sequence[int],
        num_noised: int,
        num_top: int,
        num_raw: int,
    ) -> tuple[PackedRecords, UndrawnStep]:
        """Return what `sample_records` does of these logits, float32[P, V] on the CPU. Raises what it raises.

        Penalties and biases look tokens up by id: for them a trimmed head's logits are widened.

        An id's score may differ in its last bit where the C library's logarithm does from PyTorch's.
        """
        raw_PV = raw_PV.contiguous()
        trimmed = self._trimmed if self._trimmed is not None and raw_PV.shape[1] != self._trimmed.out_features else None
        if trimmed is not None and not all(state.is_plain for state in states):
            raw_PV, trimmed = trimmed.widened(raw_PV), None
        logits_PV = penalised_and_biased(raw_PV, states, positions, self._first_id)
        count, size = raw_PV.shape
        lengths = [min(length, size) for length in (num_noised, num_top, num_raw)]
        temperatures_P = np.array([state.params.temperature for state in states], dtype=np.float32)
        seeds_P = np.array([state.params.seed_bits for state in states], dtype=np.int64)
        positions_P = np.array(positions, dtype=np.int64)
        starts = list_starts(count, lengths)
        out = np.empty(starts[-1], dtype="<i4")  # ids are int32, all else float32
        base = out.ctypes.data
        ids = None if trimmed is None else self.kept_ids
        draws = CDraws(count, size, self._first_id, *lengths, ids, logits_PV.data_ptr(), raw_PV.data_ptr())
        draws.temperatures, draws.seeds = temperatures_P.ctypes.data, seeds_P.ctypes.data
        draws.positions = positions_P.ctypes.data
        draws.stride = 1
        for name, start in zip(_NAMES, starts, strict=False):
            setattr(draws, name, base + 4 * start)
        self._runner.draw(draws)
        return packed(out, starts), UndrawnStep(raw_PV, states, positions, self._first_id, trimmed)


def list_starts(count: int, lengths: Sequence[int]) -> list[int]:
    """Return where each list of `count` positions begins in their records, in words, and where the last ends."""
    noised, top, raw = lengths
    widths = (noised,) * len(_NOISED) + (top,) * len(_TOP) + (raw,) * len(_RAW) + (1,) * len(_SUMS)
    return [0, *accumulate(count * width for width in widths)]


def packed(words: npt.NDArray[np.int32], starts: Sequence[int]) -> PackedRecords:
    """Return the lists that begin at `starts` in these records."""
    data = words.tobytes()
    pairs = zip(_NAMES, pairwise(starts), strict=True)
    return PackedRecords({name: data[4 * start : 4 * end] for name, (start, end) in pairs})
