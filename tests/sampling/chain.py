"""The whole chain from raw logits to a token, over real wire bytes, and the explicit draw it must equal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.arrays import F32, to_wire
from gateway.sampling.candidates import Candidates, join_slices, merge_sampled
from gateway.sampling.lists import VocabularySlice
from gateway.sampling.params import SamplingParams
from gateway.sampling.sampler import Choice, choose, choose_from_whole
from shard_worker.sampling.noise import gumbel_noise
from shard_worker.sampling.records import LastStep, sample_records
from shard_worker.sampling.state import SequenceState
from shard_worker.sampling.wire import pack
from tandem.shard.v1.shard_service_pb2 import Resolved, SequenceOpen, StepResult

Array = npt.NDArray[Any]


def cut(size: int, num_slices: int, random: np.random.Generator) -> list[VocabularySlice]:
    """Return `num_slices` uneven slices of a vocabulary."""
    inner = random.choice(np.arange(1, size), num_slices - 1, replace=False).tolist()
    cuts = sorted([0, size, *inner])
    return [VocabularySlice(a, b - a) for a, b in pairwise(cuts)]


@dataclass(frozen=True)
class Step:
    """One step's merged records, and the ranks that can still be asked for whole slices."""

    candidates: Candidates
    lasts: list[LastStep]
    slices: list[VocabularySlice]

    def draw(self, position: int, params: SamplingParams) -> tuple[Choice, bool]:
        """Return the token drawn, and whether the records decided it."""
        choice = choose(self.candidates, position, params)
        if isinstance(choice, Choice):
            return choice, True
        return self.draw_from_whole(position, params), False

    def draw_from_whole(self, position: int, params: SamplingParams) -> Choice:
        """Return the token drawn from whole slices."""
        return choose_from_whole(join_slices([_resolve(last, position) for last in self.lasts], self.slices), params)


def run_step(
    raw_PV: Tensor,
    params: SamplingParams,
    slices: Sequence[VocabularySlice],
    positions: list[int],
    lengths: tuple[int, int, int],
    positions_of: Callable[[int], list[int]] | None = None,
) -> Step:
    """Run every rank's records, carry them over as bytes, and merge. `lengths` is (num_noised, num_top,
    num_raw).

    positions_of(rank) lets a test give one rank other positions.
    """
    state = SequenceState.open(
        SequenceOpen(
            seed=params.seed,
            temperature=params.temperature,
            repetition_penalty=params.repetition_penalty,
        )
    )
    results, lasts = [], []
    for rank, owner in enumerate(slices):
        own = raw_PV[:, owner.first_id : owner.first_id + owner.size]
        at = positions if positions_of is None else positions_of(rank)
        records, last = sample_records(own, [state] * len(own), at, owner.first_id, *lengths)
        result = StepResult()
        pack(records).fill(result)
        results.append(StepResult.FromString(result.SerializeToString()))
        lasts.append(last)
    return Step(merge_sampled(results, slices, len(raw_PV), *lengths), lasts, list(slices))


def explicit_kept(processed_PV: Array, params: SamplingParams) -> npt.NDArray[np.bool_]:
    """Which tokens may be drawn, by the text of sampling.proto: bool[P, V]."""
    kept = np.ones(processed_PV.shape, np.bool_)
    if params.temperature == 0:
        return kept
    for row, logits in zip(kept, processed_PV.astype(np.float64), strict=True):
        order = np.lexsort((np.arange(len(logits)), -logits))
        probabilities = np.exp(logits[order] - logits.max())
        size = min(params.top_k or len(order), len(order))
        before = np.concatenate([[0.0], probabilities.cumsum()])
        row[order[size:]] = False
        if params.top_p < 1:
            row[order[before[:-1] >= params.top_p * before[size]]] = False
        if params.min_p > 0:
            row[logits - logits.max() < np.log(params.min_p)] = False
        row[order[0]] = True
    return kept


def explicit_draws(raw_PV: Tensor, params: SamplingParams, positions: list[int]) -> Array:
    """The token of each row, from whole rows: argmax of processed logit + noise among the kept ones."""
    processed = raw_PV if params.temperature == 0 else raw_PV / torch.tensor(params.temperature)
    scores = processed
    if params.temperature > 0:
        seeds = torch.full((len(positions),), params.seed)
        scores = processed + gumbel_noise(seeds, torch.tensor(positions), 0, raw_PV.shape[1], "cpu")
    is_one_row = raw_PV.stride(0) == 0
    kept = explicit_kept(processed[:1].numpy() if is_one_row else processed.numpy(), params)
    return np.asarray(np.where(kept, scores.numpy(), -np.inf).argmax(axis=1))


def explicit_probabilities(raw_V: Array, params: SamplingParams) -> npt.NDArray[np.float64]:
    """The distribution that the draws must follow: float64[V]."""
    processed = raw_V.astype(np.float64) / params.temperature
    weights = np.exp(processed - processed.max()) * explicit_kept(processed[None], params)[0]
    return np.asarray(weights / weights.sum())


def _resolve(last: LastStep, position: int) -> Resolved:
    row = last.resolve(position)
    return Resolved(
        first_id=row.first_id,
        processed=to_wire(row.processed.numpy(), F32),
        scores=to_wire(row.scores.numpy(), F32),
        raw=to_wire(row.raw.numpy(), F32),
    )
