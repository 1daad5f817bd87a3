"""What a rank reports of its slice of the logits: the best few and log-sum-exps, which merge exactly.

Shapes: P sampled positions, S scored ones, V token ids of this rank's slice. Records are lists of a slice, so
the lists of all slices together hold the best of the whole vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from common.errors import Refused
from shard_worker.model.trimmed_head import TrimmedHead
from shard_worker.sampling.best import best
from shard_worker.sampling.noise import gumbel_noise
from shard_worker.sampling.processing import process
from shard_worker.sampling.state import SequenceState
from tandem.shard.v1.shard_service_pb2 import StepResult

_SCORED_CHUNK_POSITIONS = 32


@dataclass(frozen=True, slots=True)
class SampledRecords:
    """The fields of tandem.shard.v1.StepResult for sampled positions: ids int32, the rest float32."""

    noised_ids: Tensor
    noised_scores: Tensor
    noised_processed: Tensor
    noised_raw: Tensor
    top_ids: Tensor
    top_processed: Tensor
    raw_ids: Tensor
    raw_logits: Tensor
    processed_lse: Tensor
    raw_lse: Tensor


@dataclass(frozen=True, slots=True)
class ScoredRecords:
    """The fields of tandem.shard.v1.StepResult for scored positions: ids int32, the rest float32."""

    scored_logits: Tensor
    scored_lse: Tensor
    scored_raw_ids: Tensor
    scored_raw_logits: Tensor


@dataclass(frozen=True, slots=True)
class PackedRecords:
    """Records on the host: the bytes of those fields of StepResult that are not empty."""

    fields: dict[str, bytes]

    def fill(self, result: StepResult) -> None:
        """Set the fields of `result` that the records are named after."""
        for name, data in self.fields.items():
            setattr(result, name, data)


@dataclass(frozen=True, slots=True)
class ResolvedSlice:
    """A whole slice at one position: float32[V] each."""

    first_id: int
    processed: Tensor
    scores: Tensor
    raw: Tensor


class Resolvable(Protocol):
    """What Resolve may ask for."""

    def resolve(self, position: int) -> ResolvedSlice:
        """Return the slice at sampled position `position`. Raises Refused(BAD_PLAN) when there is none."""


@dataclass(frozen=True, slots=True)
class LastStep:
    """What Resolve may ask for: the step's own tensors, float32[P, V], which must not be overwritten."""

    first_id: int
    processed_PV: Tensor
    scores_PV: Tensor
    raw_PV: Tensor

    def resolve(self, position: int) -> ResolvedSlice:
        """Return the slice at sampled position `position`. Raises Refused(BAD_PLAN) when there is none."""
        _require_sampled(position, len(self.raw_PV))
        rows = (self.processed_PV[position], self.scores_PV[position], self.raw_PV[position])
        return ResolvedSlice(self.first_id, *rows)


@dataclass(frozen=True, slots=True)
class UndrawnStep:
    """What Resolve may ask for, of a step whose noise was never computed as a whole: the arguments of the draw."""

    raw_PV: Tensor
    states: Sequence[SequenceState]
    positions: Sequence[int]
    first_id: int
    trimmed: TrimmedHead | None = None  # where it is given, raw_PV are the logits of its own tokens

    def resolve(self, position: int) -> ResolvedSlice:
        """As LastStep.resolve."""
        _require_sampled(position, len(self.raw_PV))
        one = slice(position, position + 1)
        raw_PV = self.raw_PV[one] if self.trimmed is None else self.trimmed.widened(self.raw_PV[one])
        return _noised(raw_PV, self.states[one], self.positions[one], self.first_id).resolve(0)


def sample_records(
    raw_PV: Tensor,
    states: Sequence[SequenceState],
    positions: Sequence[int],
    first_id: int,
    num_noised: int,
    num_top: int,
    num_raw: int,
) -> tuple[SampledRecords, LastStep]:
    """Return the records of a step's sampled positions, and what Resolve needs of it.

    raw_PV: float32[P, V]. states[p] is the sequence of sampled position p, positions[p] the absolute position
    of the token being drawn there, one past the row's token. The list lengths are the plan's, cut to V here.
    A NaN shows as a NaN log-sum-exp of its own row and leaves others alone.

    Raises Refused(BAD_PLAN) when a history is shorter than its position.
    """
    last = _noised(raw_PV, states, positions, first_id)
    records = best_records(raw_PV, last.processed_PV, last.scores_PV, first_id, num_noised, num_top, num_raw)
    return records, last


def best_records(
    raw_PV: Tensor, processed_PV: Tensor, scores_PV: Tensor, first_id: int, num_noised: int, num_top: int, num_raw: int
) -> SampledRecords:
    """Return the best few of logits, processed logits and noised scores, float32[P, V] each.

    Those that are the same tensor are looked at once. Shapes depend on no value, and the host is not waited for.
    """
    at_noised, noised_scores = _best_ids(scores_PV, num_noised)
    at_top, top_processed = _best_ids(processed_PV, num_top)
    at_raw, raw_logits = _best_ids(raw_PV, num_raw)
    noised_processed = noised_scores if scores_PV is processed_PV else processed_PV.gather(1, at_noised)
    noised_raw = noised_processed if processed_PV is raw_PV else raw_PV.gather(1, at_noised)
    raw_lse = raw_PV.logsumexp(dim=1)
    return SampledRecords(
        noised_ids=_global(at_noised, first_id),
        noised_scores=noised_scores,
        noised_processed=noised_processed,
        noised_raw=noised_raw,
        top_ids=_global(at_top, first_id),
        top_processed=top_processed,
        raw_ids=_global(at_raw, first_id),
        raw_logits=raw_logits,
        processed_lse=raw_lse if processed_PV is raw_PV else processed_PV.logsumexp(dim=1),
        raw_lse=raw_lse,
    )


def score_records(
    raw_logits: Callable[[int, int], Tensor], scored_ids: Tensor, first_id: int, num_raw: int
) -> ScoredRecords:
    """Return the records of a step's scored positions.

    raw_logits(start, stop) gives float32[stop - start, V], the raw logits of those scored positions; it is
    called for a few at a time, so that the logits of all need never exist at once. scored_ids: int64[S],
    global token ids. S >= 1.
    """
    parts = []
    for start in range(0, len(scored_ids), _SCORED_CHUNK_POSITIONS):
        ids = scored_ids[start : start + _SCORED_CHUNK_POSITIONS].to(torch.int64)
        raw_SV = raw_logits(start, start + len(ids))
        local = ids.to(raw_SV.device).unsqueeze(1) - first_id
        inside = (local >= 0) & (local < raw_SV.shape[1])
        own = raw_SV.gather(1, local.where(inside, 0)).masked_fill(~inside, -torch.inf)
        at_raw, raw = _best_ids(raw_SV, num_raw)
        parts.append((own.squeeze(1), raw_SV.logsumexp(dim=1), _global(at_raw, first_id), raw))
    return ScoredRecords(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _noised(raw_PV: Tensor, states: Sequence[SequenceState], positions: Sequence[int], first_id: int) -> LastStep:
    """Return the logits as they are, processed, and with noise."""
    processed_PV = process(raw_PV, states, positions, first_id)
    return LastStep(first_id, processed_PV, _add_noise(processed_PV, states, positions, first_id), raw_PV)


def _require_sampled(position: int, count: int) -> None:
    if not 0 <= position < count:
        raise Refused("BAD_PLAN", f"position {position} of a step that sampled {count}")


def _add_noise(
    processed_PV: Tensor, states: Sequence[SequenceState], positions: Sequence[int], first_id: int
) -> Tensor:
    """Return processed logits, plus noise where the temperature is above 0."""
    drawn = [row for row, state in enumerate(states) if state.params.temperature > 0]
    if not drawn:
        return processed_PV
    size, device = processed_PV.shape[1], processed_PV.device
    seeds = torch.tensor([states[row].params.seed_bits for row in drawn])
    noise = gumbel_noise(seeds, torch.tensor([positions[row] for row in drawn]), first_id, size, device)
    if len(drawn) == len(states):
        return noise.add_(processed_PV)
    return processed_PV.index_add(0, torch.tensor(drawn).to(device), noise)


def _best_ids(values_PV: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return (indices int64[P, l], values float32[P, l]), best first, with l = min(length, V)."""
    if length == 0:
        return torch.empty(len(values_PV), 0, dtype=torch.int64, device=values_PV.device), values_PV[:, :0]
    return best(values_PV, min(length, values_PV.shape[1]))


def _global(indices: Tensor, first_id: int) -> Tensor:
    return (indices + first_id).to(torch.int32)
