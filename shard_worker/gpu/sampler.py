"""Sampling records in one replay: from logits to the best few tokens, without a word to the host in between.

Shapes: P sampled positions, B >= P the bucket's size, V this rank's vocabulary rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from shard_worker.gpu.decoder import BUCKETS, MAX_TOKENS, bucket_of
from shard_worker.gpu.replay import Recorder
from shard_worker.gpu.staging import Staging
from shard_worker.sampling.noise import gumbel_noise
from shard_worker.sampling.records import LastStep, SampledRecords, best_records
from shard_worker.sampling.state import SequenceState

# Each holds logits and scratch space; requests choose list lengths, so their number must have an end.
MAX_RECORDINGS = 48

# Rows of the staged integers. The divisor is a float32's bits; drawn is 1 where noise is added.
_SEED, _POSITION, _DIVISOR, _DRAWN = range(4)


@dataclass(frozen=True)
class _Kind:
    """What a recording is made for."""

    bucket: int
    drawn: bool
    num_noised: int
    num_top: int
    num_raw: int


@dataclass
class _Recording:
    """A recording and where it leaves its results."""

    replay: Callable[[], None]
    records: SampledRecords
    last: LastStep


class GraphSampler:
    """Samples positions whose sequences have neither penalties nor biases: those need the history."""

    def __init__(self, first_id: int, size: int, device: torch.device, recorder: Recorder) -> None:
        """The rank's slice of the vocabulary begins at `first_id` and has `size` tokens."""
        self._first_id, self._device, self._recorder = first_id, device, recorder
        self._raw_BV = torch.zeros(MAX_TOKENS, size, device=device)
        self._params = Staging((4, MAX_TOKENS), torch.int64, device)
        self._recordings: dict[_Kind, _Recording] = {}

    def takes(self, states: Sequence[SequenceState]) -> bool:
        """Return whether these sampled positions can be recorded."""
        if len(states) > MAX_TOKENS:
            return False
        return not any(state.params.has_penalties or len(state.params.bias_ids) for state in states)

    @torch.inference_mode()
    def record_common(self) -> None:
        """Record what most steps ask for, so that no step waits for a compiler: one best token, greedy or drawn."""
        for bucket in BUCKETS:
            for drawn in (False, True):
                self._computed(_Kind(bucket, drawn, 1, 0, 0))

    @torch.inference_mode()
    def __call__(
        self,
        raw_PV: Tensor,
        states: Sequence[SequenceState],
        positions: Sequence[int],
        num_noised: int,
        num_top: int,
        num_raw: int,
    ) -> tuple[SampledRecords, LastStep]:
        """Return what `sample_records` does of these logits, float32[P, V]; the records until the next call only."""
        drawn = [state.params.temperature > 0 for state in states]
        kind = _Kind(bucket_of(len(states)), any(drawn), num_noised, num_top, num_raw)
        if kind.drawn:
            self._stage(states, positions, drawn)
        self._raw_BV[: len(states)].copy_(raw_PV)
        records, last = self._computed(kind)
        return _first(records, len(states)), _copied(last, len(states))

    def _stage(self, states: Sequence[SequenceState], positions: Sequence[int], drawn: Sequence[bool]) -> None:
        host, count = self._params.writable().numpy(), len(states)
        host[_SEED, :count] = [state.params.seed_bits for state in states]
        host[_POSITION, :count] = positions
        divisors = np.array([state.params.divisor for state in states], dtype=np.float32)
        host[_DIVISOR, :count] = divisors.view(np.int32)
        host[_DRAWN, :count] = drawn
        host[:, count:] = 0
        host[_DIVISOR, count:] = np.float32(1).view(np.int32)
        self._params.send()

    def _computed(self, kind: _Kind) -> tuple[SampledRecords, LastStep]:
        """Run the staged positions, by a recording where there is one or may be one more."""
        if kind not in self._recordings:
            if not self._recorder.enabled or len(self._recordings) >= MAX_RECORDINGS:
                return self._run(kind)
            self._recordings[kind] = self._record(kind)
        recording = self._recordings[kind]
        recording.replay()
        return recording.records, recording.last

    def _record(self, kind: _Kind) -> _Recording:
        made: list[tuple[SampledRecords, LastStep]] = []
        replay = self._recorder.record(lambda: made.append(self._run(kind)))
        return _Recording(replay, *made[-1])  # the runs before were warm-ups

    def _run(self, kind: _Kind) -> tuple[SampledRecords, LastStep]:
        raw_BV = self._raw_BV[: kind.bucket]
        processed_BV = scores_BV = raw_BV
        if kind.drawn:
            params = self._params.device[:, : kind.bucket]
            divisors_B1 = params[_DIVISOR].to(torch.int32).view(torch.float32).unsqueeze(1)
            processed_BV = raw_BV / divisors_B1
            noise_BV = gumbel_noise(params[_SEED], params[_POSITION], self._first_id, raw_BV.shape[1], self._device)
            drawn_B1 = (params[_DRAWN] != 0).unsqueeze(1)
            scores_BV = torch.where(drawn_B1, processed_BV + noise_BV, processed_BV)
        lengths = (kind.num_noised, kind.num_top, kind.num_raw)
        records = best_records(raw_BV, processed_BV, scores_BV, self._first_id, *lengths)
        return records, LastStep(self._first_id, processed_BV, scores_BV, raw_BV)


def _first(records: SampledRecords, count: int) -> SampledRecords:
    return SampledRecords(*(getattr(records, field.name)[:count] for field in fields(records)))


def _copied(last: LastStep, count: int) -> LastStep:
    """Return the first rows, safe from the next replay; what was one tensor stays one."""
    raw_PV = last.raw_PV[:count].clone()
    processed_PV = raw_PV if last.processed_PV is last.raw_PV else last.processed_PV[:count].clone()
    scores_PV = processed_PV if last.scores_PV is last.processed_PV else last.scores_PV[:count].clone()
    return LastStep(last.first_id, processed_PV, scores_PV, raw_PV)
