"""One Generate request as draft workers know it: what they were told of it, and what they are to be told next."""

from array import array
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from common.arrays import F32, I32, to_wire
from gateway.sampling.params import SamplingParams
from gateway.speculation.draft_stream import DraftStream
from gateway.speculation.drafted import Drafted
from tandem.draft.v1 import draft_service_pb2 as pb


class Ask(NamedTuple):
    """A proposal that is awaited. Times are of time.perf_counter_ns."""

    stream: DraftStream
    base_length: int
    num_wanted: int
    asked_ns: int
    due_ns: int


@dataclass(eq=False, slots=True)
class DraftRequest:
    """token_ids is the scheduler's own array, i32: the prompt, then the committed output. It only grows."""

    number: int  # u64, unique among a pool's requests
    token_ids: "array[int]"
    prompt_length: int
    params: SamplingParams
    traceparent: str = ""  # W3C: what workers are told of its trace

    # The pool's own.
    stream: DraftStream | None = field(default=None, init=False)  # where it was opened last
    is_open: bool = field(default=False, init=False)  # the worker there knows it, as far as we know
    full_at: set[DraftStream] = field(default_factory=set, init=False)  # workers that it is too long for
    epoch: int = field(default=0, init=False)
    round: int = field(default=0, init=False)
    num_sent: int = field(default=0, init=False)  # leading ids that the worker was told
    was_forgotten: bool = field(default=False, init=False)  # it had to be told anew, and has not drafted since
    ask: Ask | None = field(default=None, init=False)  # the answer that is awaited
    drafted: Drafted | None = field(default=None, init=False)  # the answer that came

    def opening(self) -> pb.Open:
        """Begin a new epoch, with all ids there are."""
        self.epoch, self.round = self.epoch + 1, 0
        self.is_open, self.num_sent = True, len(self.token_ids)
        return pb.Open(
            request=self.number,
            epoch=self.epoch,
            ids=to_wire(self.token_ids[:], I32),
            prompt_length=self.prompt_length,
            sampling=_sampling(self.params),
            traceparent=self.traceparent,
        )

    def commitment(self, count: int, deadline_s: float) -> pb.Commit:
        """Begin a new round, with the ids that the worker was not told yet, asking for `count` tokens."""
        base_length, self.round = self.num_sent, self.round + 1
        self.num_sent = len(self.token_ids)
        return pb.Commit(
            request=self.number,
            epoch=self.epoch,
            round=self.round,
            base_length=base_length,
            ids=to_wire(self.token_ids[base_length:], I32),
            count=count,
            deadline_ns=max(1, int(deadline_s * 1e9)),
        )

    def closing(self) -> pb.Close:
        """End the epoch."""
        self.is_open = False
        return pb.Close(request=self.number, epoch=self.epoch)


def _sampling(params: SamplingParams) -> pb.Sampling:
    return pb.Sampling(
        seed=params.seed,
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        bias_ids=to_wire(np.array(list(params.logit_bias), np.int32), I32),
        bias_values=to_wire(np.array(list(params.logit_bias.values()), np.float32), F32),
    )
