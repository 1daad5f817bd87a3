"""What every proposer does, with a model or without: it is told texts, asked for continuations, and works in steps."""

import time
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from draft_worker.text import Key, Text
from tandem.draft.v1 import draft_service_pb2 as pb


class Token(NamedTuple):
    """One drafted token, as Proposal's fields of these names say."""

    id: int
    probability: float
    margin: float
    runner_up_id: int


@dataclass(slots=True)
class Ask:
    """One commit that waits for its proposal. Times are of time.perf_counter_ns."""

    text: Text
    round: int
    count: int
    read_ns: int
    due_ns: int | None
    started_ns: int = 0
    num_ready: int = 0
    num_steps: int = 0

    def start(self) -> None:
        """Note when work on it began, the first time."""
        self.started_ns = self.started_ns or time.perf_counter_ns()


@dataclass(frozen=True, slots=True)
class Draft:
    """The answer to an ask."""

    ask: Ask
    outcome: pb.Outcome
    tokens: list[Token] = field(default_factory=list)
    match_length: int = 0


@dataclass(frozen=True, slots=True)
class About:
    """The fields of GetInfoResponse that a proposer knows."""

    proposer: str
    name: str
    vocabulary_hash: str
    vocabulary_size: int
    context_length: int
    kv_cache_tokens: int


@dataclass(frozen=True, slots=True)
class Usage:
    """The fields of Load that a proposer knows."""

    unread_tokens: int = 0
    kv_cache_used_tokens: int = 0
    step_ns: int = 0


class Proposer(Protocol):
    """Continues texts. All calls come from one thread; texts are changed by the caller, who then tells."""

    @property
    def about(self) -> About:
        """What this proposer is."""

    @property
    def usage(self) -> Usage:
        """What it holds, and how fast it is."""

    @property
    def waiting(self) -> int:
        """How many asks are not answered."""

    def open(self, text: Text) -> None:
        """A text is new."""

    def commit(self, text: Text, old_length: int, unchanged: int) -> None:
        """A text that had `old_length` ids has changed; its first `unchanged` ids stayed."""

    def ask(self, ask: Ask) -> None:
        """Continue a text. An ask of the same text that waits is to be withdrawn before."""

    def withdraw(self, key: Key) -> Ask | None:
        """Forget the ask that waits for this text, and return it."""

    def close(self, key: Key) -> None:
        """Forget a text and whatever waits for it."""

    def work(self) -> list[Draft] | None:
        """Do a little of what waits and return what is done; None where there is nothing to do, idle work included."""
