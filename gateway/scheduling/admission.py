"""How much may run and wait, and who waits, in order of arrival."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from common.errors import Overloaded, SettingsError
from gateway.scheduling.sequence import Sequence


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of continuous batching; the fields are those of GatewaySettings.

    Raises SettingsError when a step could not hold one token of every running sequence.
    """

    max_running: int
    max_step_tokens: int
    max_prefill_chunk_tokens: int
    max_queued_requests: int
    max_queued_tokens: int

    def __post_init__(self) -> None:
        if self.max_running > self.max_step_tokens:
            raise SettingsError(f"max_running ({self.max_running}) exceeds max_step_tokens ({self.max_step_tokens})")


class WaitingQueue:
    """First come, first served. Sequences that lost their blocks return to the front.

    The bounds count sequences that wait for their first step; those that were running once were let in
    already.
    """

    def __init__(self, max_requests: int, max_tokens: int) -> None:
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self._sequences: deque[Sequence] = deque()
        self.queued_requests = 0
        self.queued_tokens = 0

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    @property
    def head(self) -> Sequence:
        """The sequence that has waited longest; there must be one."""
        return self._sequences[0]

    def check_room(self, prompt_length: int, free_slots: int) -> None:
        """Raise Overloaded when a bound forbids one more prompt of `prompt_length` tokens.

        As many as `free_slots` start in the next step and do not count as waiting. A prompt that alone
        exceeds the bound on tokens may come when nothing else waits: for that one, waiting would never help.
        """
        if self.queued_requests >= self._max_requests + free_slots:
            raise Overloaded(f"{self.queued_requests} requests are waiting")
        if self.queued_requests and self.queued_tokens + prompt_length > self._max_tokens:
            raise Overloaded(f"{self.queued_tokens} prompt tokens are waiting")

    def append(self, sequence: Sequence) -> None:
        """Let a new sequence wait."""
        self._sequences.append(sequence)
        self._count(sequence, 1)

    def appendleft(self, sequence: Sequence) -> None:
        """Let a sequence that is older than all others wait."""
        self._sequences.appendleft(sequence)
        self._count(sequence, 1)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out."""
        self._sequences.remove(sequence)
        self._count(sequence, -1)

    def popleft(self) -> Sequence:
        """Take out the sequence that has waited longest."""
        sequence = self._sequences.popleft()
        self._count(sequence, -1)
        return sequence

    def _count(self, sequence: Sequence, sign: int) -> None:
        if not sequence.started:
            self.queued_requests += sign
            self.queued_tokens += sign * sequence.prompt_length
