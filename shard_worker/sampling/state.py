"""What a rank knows of a sequence in order to sample it: its parameters and its history."""

from dataclasses import dataclass
from math import isfinite

import numpy as np
import numpy.typing as npt

from common.arrays import F32, I32, from_wire
from common.errors import Refused
from tandem.shard.v1.shard_service_pb2 import SequenceOpen

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class SequenceParams:
    """How one sequence's logits are processed and drawn (tandem.shard.v1.SequenceOpen).

    `seed_bits` is the u64 seed as the int64 of the same bits. bias_ids: int32[B]; bias_values: float32[B].
    """

    seed_bits: int
    temperature: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    bias_ids: Ids
    bias_values: npt.NDArray[np.float32]

    @property
    def has_penalties(self) -> bool:
        """Whether the history changes the logits."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    @property
    def divisor(self) -> float:
        """What the logits are divided by."""
        return self.temperature if self.temperature > 0 else 1.0


class SequenceState:
    """One open sequence of a rank. The history is kept only where a penalty reads it."""

    def __init__(self, params: SequenceParams, prompt_length: int, history: Ids) -> None:
        self.params = params
        self.is_plain = not params.has_penalties and not len(params.bias_ids)  # drawn from the model's own logits
        self.prompt_length = prompt_length
        self._buffer = np.array(history, dtype=np.int32)
        self._length = len(history)

    @classmethod
    def open(cls, opening: SequenceOpen) -> "SequenceState":
        """Return the state that `opening` describes. Raises Refused(BAD_PLAN) when it makes no sense."""
        params = SequenceParams(
            seed_bits=opening.seed - (1 << 64) if opening.seed >> 63 else opening.seed,
            temperature=opening.temperature,
            repetition_penalty=opening.repetition_penalty,
            presence_penalty=opening.presence_penalty,
            frequency_penalty=opening.frequency_penalty,
            bias_ids=from_wire(opening.bias_ids, I32, (-1,), "bias_ids"),
            bias_values=from_wire(opening.bias_values, F32, (-1,), "bias_values"),
        )
        _check(opening.sequence, params)
        return cls(params, opening.prompt_length, from_wire(opening.history, I32, (-1,), "history"))

    def write(self, base_length: int, ids: Ids) -> None:
        """history[base_length:] = ids: what lay beyond is dead.

        Raises Refused(BAD_PLAN) when that would leave a gap.
        """
        if not self.params.has_penalties:
            return
        if base_length > self._length:
            raise Refused("BAD_PLAN", f"a row begins at {base_length}, but {self._length} ids are known")
        self._length = base_length + len(ids)
        if self._length > len(self._buffer):
            grown = np.empty(2 * self._length, dtype=np.int32)
            grown[:base_length] = self._buffer[:base_length]
            self._buffer = grown
        self._buffer[base_length : self._length] = ids

    def history(self, position: int) -> Ids:
        """Return int32[position]: the ids that precede the token drawn at `position`.

        Raises Refused(BAD_PLAN) when fewer are known.
        """
        if position > self._length:
            raise Refused("BAD_PLAN", f"position {position} is drawn, but {self._length} ids are known")
        return self._buffer[:position]


def _check(sequence: int, params: SequenceParams) -> None:
    numbers = (params.presence_penalty, params.frequency_penalty)
    if not (params.temperature >= 0 and isfinite(params.temperature)):
        raise Refused("BAD_PLAN", f"sequence {sequence}: temperature {params.temperature}")
    if not (params.repetition_penalty > 0 and all(map(isfinite, (params.repetition_penalty, *numbers)))):
        raise Refused("BAD_PLAN", f"sequence {sequence}: penalties {params.repetition_penalty}, {numbers}")
    if len(params.bias_ids) != len(params.bias_values) or not np.isfinite(params.bias_values).all():
        raise Refused("BAD_PLAN", f"sequence {sequence}: biases are not finite, or not one per id")
