"""A gateway's messages, read and checked: from here on their numbers can be trusted."""

from dataclasses import dataclass
from math import isfinite

import numpy as np

from common.arrays import F32, I32, from_wire
from common.errors import Refused
from draft_worker.text import Ids
from tandem.draft.v1 import draft_service_pb2 as pb

# More biases than any request of the public contract has.
MAX_BIASES = 1024
# The smallest positive temperature of tandem.v1.SamplingParams.
MIN_TEMPERATURE = 1e-3


@dataclass(frozen=True, slots=True)
class Opening:
    """pb.Open; `sampling` has all defaults filled in. ids: int32[L], L >= 1."""

    request: int
    epoch: int
    ids: Ids
    prompt_length: int
    sampling: pb.Sampling


@dataclass(frozen=True, slots=True)
class Commitment:
    """pb.Commit. ids: int32[n], n >= 0."""

    request: int
    epoch: int
    round: int
    base_length: int
    ids: Ids
    count: int
    deadline_ns: int


@dataclass(frozen=True, slots=True)
class Events:
    """pb.Batch, and when it was read, by time.perf_counter_ns."""

    opens: list[Opening]
    commits: list[Commitment]
    closes: list[pb.Close]
    read_ns: int

    @property
    def is_empty(self) -> bool:
        """Whether only the worker's load is asked for."""
        return not (self.opens or self.commits or self.closes)


def read_events(batch: pb.Batch, read_ns: int, vocabulary_size: int) -> Events:
    """Return what a batch says; a vocabulary_size of 0 takes any id. Raises Refused (BAD_MESSAGE)."""
    opens = [_opening(message, vocabulary_size) for message in batch.opens]
    commits = [_commitment(message, vocabulary_size) for message in batch.commits]
    return Events(opens, commits, list(batch.closes), read_ns)


def _opening(message: pb.Open, vocabulary_size: int) -> Opening:
    ids = _ids(message.ids, vocabulary_size, "open.ids")
    _require(len(ids) > 0, "open.ids is empty")
    _require(message.prompt_length <= len(ids), "open.prompt_length exceeds ids")
    sampling = pb.Sampling()
    sampling.CopyFrom(message.sampling)
    sampling.repetition_penalty = sampling.repetition_penalty or 1.0
    sampling.top_p = sampling.top_p or 1.0
    _check_sampling(sampling, vocabulary_size)
    return Opening(message.request, message.epoch, ids, message.prompt_length, sampling)


def _commitment(message: pb.Commit, vocabulary_size: int) -> Commitment:
    ids = _ids(message.ids, vocabulary_size, "commit.ids")
    _require(message.base_length + len(ids) > 0, "a commit of nothing after nothing")
    return Commitment(
        message.request,
        message.epoch,
        message.round,
        message.base_length,
        ids,
        message.count,
        message.deadline_ns,
    )


def _check_sampling(sampling: pb.Sampling, vocabulary_size: int) -> None:
    temperature = sampling.temperature
    _require(temperature == 0 or MIN_TEMPERATURE * 0.999 <= temperature < 1e4, f"temperature {temperature}")
    _require(0 < sampling.top_p <= 1, f"top_p {sampling.top_p}")
    _require(0 <= sampling.min_p <= 1, f"min_p {sampling.min_p}")
    penalties = (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty)
    _require(penalties[0] > 0 and all(map(isfinite, penalties)), f"penalties {penalties}")
    bias_ids = _ids(sampling.bias_ids, vocabulary_size, "bias_ids")
    biases = from_wire(sampling.bias_values, F32, (-1,), "bias_values", "BAD_MESSAGE")
    _require(len(bias_ids) == len(biases) <= MAX_BIASES, f"{len(bias_ids)} bias_ids and {len(biases)} bias_values")
    _require(bool(np.isfinite(biases).all()), "a bias that is not finite")


def _ids(data: bytes, vocabulary_size: int, name: str) -> Ids:
    ids: Ids = from_wire(data, I32, (-1,), name, "BAD_MESSAGE")
    if len(ids):
        inside = int(ids.min()) >= 0 and (not vocabulary_size or int(ids.max()) < vocabulary_size)
        _require(inside, f"{name}: an id outside the vocabulary")
    return ids


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise Refused("BAD_MESSAGE", message)
