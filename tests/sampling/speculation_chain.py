"""Sample and match for many seeds at once: ranks' records over real wire bytes, then the gateway's own decision.

The model's texts can all be listed: LENGTH tokens out of SIZE ids, after a prompt that is the same for all. Each seed
is a request of its own. Shapes: B requests, L = LENGTH, P sampled positions of a step, V = SIZE, C contexts.
"""

import asyncio
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gateway.decision import Decision
from gateway.generation import Generation
from gateway.sampling.lists import VocabularySlice
from gateway.sampling.logprobs import TokenLogprobs
from gateway.sampling.params import SamplingParams
from gateway.scheduling.plan import NO_IDS, Row, StepPlan
from gateway.scheduling.sequence import Sequence as TokenSequence
from gateway.shard_group import GroupInfo
from gateway.stopping import StopRules
from gateway.waterfall import Waterfall
from shard_worker.sampling.noise import gumbel_noise
from shard_worker.sampling.records import sample_records
from shard_worker.sampling.state import SequenceParams, SequenceState
from shard_worker.sampling.wire import pack
from tandem.shard.v1.shard_service_pb2 import GetInfoResponse, StepResult

SIZE = 8
LENGTH = 3
PROMPT = (1, 6, 3, 0, 4)
SLICES = (VocabularySlice(0, 5), VocabularySlice(5, 3))
# A context is a prefix of a text, shorter than LENGTH; they are counted by length, then in lexical order.
FIRST_CONTEXT = [(SIZE**length - 1) // (SIZE - 1) for length in range(LENGTH + 1)]
_BATCH = 5_000

Ints = npt.NDArray[np.int64]
Decide = Callable[..., Decision]


@dataclass(frozen=True)
class Tables:
    """Raw logits that follow each context: float32[C, V]."""

    target_CV: Tensor
    draft_CV: Tensor
    temperature: float

    def joint(self) -> npt.NDArray[np.float64]:
        """Return the target's probability of each text: float64[SIZE ** LENGTH], in lexical order."""
        probabilities_CV = torch.softmax(self.target_CV.double() / self.temperature, dim=1).numpy()
        joint = np.ones(1)
        for first in FIRST_CONTEXT[:LENGTH]:
            joint = (joint[:, None] * probabilities_CV[first : first + len(joint)]).ravel()
        return joint


@dataclass(frozen=True)
class Ranks:
    """The group of a step, and what no gateway knows, for verifiers that are wrong on purpose: float32[P, V] each."""

    info: GroupInfo
    processed_PV: Tensor
    draft_processed_PV: Tensor
    noise_PV: Tensor
    is_drafted_P: npt.NDArray[np.bool_]  # whether a draft is to be verified there


class Unending(Generation):
    """A request that no rule ends: what was drawn is read off the outcomes."""

    def __init__(self, params: SamplingParams) -> None:
        sequence = TokenSequence(tenant="", prompt_ids=PROMPT, max_new_tokens=LENGTH, params=params)
        stop: Any = StopRules(LENGTH, frozenset(), frozenset(), ())
        text: Any = None
        super().__init__(sequence, params, stop, text, Waterfall())

    def accept(self, token_id: int, logprobs: TokenLogprobs | None, is_draft: bool = False) -> bool:
        """Take a token."""
        return False


def draw_plainly(tables: Tables, seeds: Sequence[int]) -> Ints:
    """Return what is drawn token by token, without gateway or drafts: int64[B, L]."""
    noise_BLV = _noise(seeds)
    texts_BL = np.zeros((len(seeds), LENGTH), np.int64)
    for place in range(LENGTH):
        at = _contexts(texts_BL)[:, place]
        texts_BL[:, place] = (tables.target_CV[at] / tables.temperature + noise_BLV[:, place]).argmax(dim=1).numpy()
    return texts_BL


def draw_in_rounds(tables: Tables, seeds: range, decide: Decide = Decision) -> tuple[Ints, Ints]:
    """Return what is drawn in rounds of 0 to LENGTH - 1 drafted tokens, int64[B, L], and how many rounds each took."""
    starts = range(0, len(seeds), _BATCH)
    parts = [asyncio.run(_draw_batch(tables, seeds[start : start + _BATCH], decide)) for start in starts]
    texts, rounds = zip(*parts, strict=True)
    return np.concatenate(texts), np.concatenate(rounds)


def texts_to_cells(texts_BL: Ints) -> Ints:
    """Return each text's place in Tables.joint."""
    return texts_BL @ (SIZE ** np.arange(LENGTH)[::-1])


async def _draw_batch(tables: Tables, seeds: Sequence[int], decide: Decide) -> tuple[Ints, Ints]:
    """Requests of all lengths share each step, drafts are of all lengths, and some rows have none."""
    job = Unending(SamplingParams(temperature=float(np.float32(tables.temperature))))
    states = [_state(seed, job.params) for seed in seeds]
    noise_BLV = _noise(seeds)
    texts_BL, known_B = np.zeros((len(seeds), LENGTH), np.int64), np.zeros(len(seeds), np.int64)
    rounds_B = np.zeros(len(seeds), np.int64)
    chooser = np.random.default_rng(seeds[0])
    places_L = np.arange(LENGTH)
    while (known_B < LENGTH).any():
        drafted_B = np.minimum(chooser.choice([0, 1, 2, 2], len(seeds)), np.maximum(LENGTH - 1 - known_B, 0))
        for place in range(LENGTH):
            drafting = np.flatnonzero((known_B <= place) & (place < known_B + drafted_B))
            at = _contexts(texts_BL[drafting])[:, place]
            scores = tables.draft_CV[at] / tables.temperature + noise_BLV[drafting, place]
            texts_BL[drafting, place] = scores.argmax(dim=1).numpy()
        owners_P, places_P = ((known_B[:, None] <= places_L) & (places_L <= (known_B + drafted_B)[:, None])).nonzero()
        at_P = _contexts(texts_BL)[owners_P, places_P]
        raw_PV = tables.target_CV[at_P]
        results = _answers(raw_PV, [states[owner] for owner in owners_P.tolist()], places_P + len(PROMPT))
        ranks = Ranks(
            _INFO,
            raw_PV / tables.temperature,
            tables.draft_CV[at_P] / tables.temperature,
            noise_BLV[owners_P, places_P],
            places_P < (known_B + drafted_B)[owners_P],
        )
        running = np.flatnonzero(known_B < LENGTH)
        rows = [
            _row(job.sequence, text[known : known + drafted])
            for text, known, drafted in zip(
                texts_BL[running].tolist(), known_B[running].tolist(), drafted_B[running].tolist(), strict=True
            )
        ]
        outcomes = await decide(StepPlan(tuple(rows), (), (), 0, 0), [job] * len(rows), ranks).decide(results)
        for index, outcome in zip(running.tolist(), outcomes, strict=True):
            known = known_B[index]
            texts_BL[index, known : known + len(outcome.token_ids)] = outcome.token_ids
            known_B[index] += len(outcome.token_ids)
        rounds_B[running] += 1
    return texts_BL, rounds_B


_INFO = GroupInfo(
    1, tuple(GetInfoResponse(vocabulary_first=owner.first_id, vocabulary_size=owner.size) for owner in SLICES)
)


def _answers(raw_PV: Tensor, states: list[SequenceState], positions: Ints) -> list[StepResult]:
    results = []
    for owner in SLICES:
        own_PV = raw_PV[:, owner.first_id : owner.first_id + owner.size]
        records, _ = sample_records(own_PV, states, positions.tolist(), owner.first_id, 1, 0, 0)
        result = StepResult()
        pack(records).fill(result)
        results.append(StepResult.FromString(result.SerializeToString()))
    return results


def _row(sequence: TokenSequence, draft_ids: list[int]) -> Row:
    return Row(sequence, 0, array("i", [0, *draft_ids]), 1 + len(draft_ids), NO_IDS, NO_IDS)


def _contexts(texts_BL: Ints) -> Ints:
    """Return the context before each place of each text: int64[B, L]."""
    contexts_BL = np.zeros(texts_BL.shape, np.int64)
    for place in range(1, LENGTH):
        contexts_BL[:, place] = contexts_BL[:, place - 1] * SIZE + texts_BL[:, place - 1]
    contexts_BL += FIRST_CONTEXT[:LENGTH]
    return contexts_BL


def _noise(seeds: Sequence[int]) -> Tensor:
    """Return the noise of every place: float32[B, L, V]."""
    positions = torch.arange(len(PROMPT), len(PROMPT) + LENGTH).repeat(len(seeds))
    return gumbel_noise(torch.tensor(seeds).repeat_interleave(LENGTH), positions, 0, SIZE, "cpu").view(-1, LENGTH, SIZE)


def _state(seed: int, params: SamplingParams) -> SequenceState:
    no_ids = np.empty(0, np.int32)
    own = SequenceParams(seed, params.temperature, 1.0, 0.0, 0.0, no_ids, np.empty(0, np.float32))
    return SequenceState(own, len(PROMPT), no_ids)
