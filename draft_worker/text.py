"""One request as its gateway told it: the committed ids, and how the target draws."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tandem.draft.v1 import draft_service_pb2 as pb

Ids = npt.NDArray[np.int32]


class Key(NamedTuple):
    """A request of all gateways' requests."""

    session: int
    request: int


@dataclass(frozen=True, slots=True)
class Drawing:
    """How a request's tokens are drawn: the checked message, all defaults filled in, and from which target."""

    sampling: pb.Sampling
    prompt_length: int
    target_hash: str


class Text:
    """The committed ids of one request in one epoch, int32[length]. `last_round` is that of its last commit."""

    def __init__(self, key: Key, epoch: int, ids: Ids, drawing: Drawing) -> None:
        self.key, self.epoch, self.drawing = key, epoch, drawing
        self.last_round = 0
        self._buffer = np.array(ids, dtype=np.int32)
        self.length = len(ids)

    @property
    def ids(self) -> Ids:
        """A view of the ids, valid until the next commit."""
        return self._buffer[: self.length]

    def commit(self, base_length: int, ids: Ids) -> int:
        """Make the text its first `base_length` ids and `ids`; return how many of the old ids stayed where they were.

        base_length is at most the text's length.
        """
        assert 0 <= base_length <= self.length
        overlap = min(len(ids), self.length - base_length)
        differing = np.flatnonzero(self._buffer[base_length : base_length + overlap] != ids[:overlap])
        unchanged = base_length + (int(differing[0]) if len(differing) else overlap)
        self.length = base_length + len(ids)
        if self.length > len(self._buffer):
            grown = np.empty(self.length + self.length // 4 + 64, dtype=np.int32)
            grown[:base_length] = self._buffer[:base_length]
            self._buffer = grown
        self._buffer[base_length : self.length] = ids
        return unchanged
