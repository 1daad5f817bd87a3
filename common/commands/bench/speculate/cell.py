"""What the answers of one cell came to: one proposer, one temperature, one draft length."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

from common.commands.bench.trace import Trace
from tandem.v1.inference_service_pb2 import FINISH_REASON_END_OF_TEXT


class Key(NamedTuple):
    """Who drafts, how the target draws, and how many tokens are drafted for a pass at most."""

    proposer: str
    temperature: float
    max_draft_tokens: int

    def __str__(self) -> str:
        return f"{self.proposer}, T {self.temperature:g}, K {self.max_draft_tokens}"


@dataclass(frozen=True)
class Cell:
    """Sums over requests that ran one at a time.

    `seen_tokens` came within `seen_ns` by the client's clock, each request's first message left out. `tokens`, `passes`
    and `decode_ns` are the server's account of the same, each request's first token left out. A round is a pass that
    verified a draft: `drafted_at` and `accepted_at` count rounds by draft position, `wait_ns` is what they waited.
    """

    key: Key
    requests: int
    failures: tuple[str, ...]
    seen_tokens: int
    seen_ns: int
    tokens: int
    passes: int
    decode_ns: int
    rounds: int
    drafted_at: tuple[int, ...]
    accepted_at: tuple[int, ...]
    ngram_drafted: int
    wait_ns: int

    @property
    def tokens_per_s(self) -> float | None:
        """Decoded tokens per second as the client saw them; None where no answer had a second message."""
        return self.seen_tokens / self.seen_ns * 1e9 if self.seen_ns else None

    @property
    def acceptance(self) -> float | None:
        """Share of the drafted tokens that were the target's own, all before them included."""
        return sum(self.accepted_at) / sum(self.drafted_at) if self.rounds else None

    @property
    def acceptance_at(self) -> tuple[float, ...]:
        """The same by draft position, of the rounds that drafted that far."""
        return tuple(accepted / drafted for accepted, drafted in zip(self.accepted_at, self.drafted_at, strict=True))

    @property
    def tokens_per_pass(self) -> float | None:
        return self.tokens / self.passes if self.passes else None

    @property
    def drafted_share(self) -> float | None:
        """Share of the passes that verified a draft."""
        return self.rounds / self.passes if self.passes else None

    @property
    def wait_ms_per_round(self) -> float | None:
        return self.wait_ns / self.rounds / 1e6 if self.rounds else None


def cell_of(key: Key, traces: Sequence[Trace], failures: Iterable[str] = ()) -> Cell:
    """Return the sums of a cell's answers."""
    reports = [trace.finished.speculation for trace in traces]
    tokens = [_drawn_tokens(trace) for trace in traces]
    # Without a report nothing was drafted: a pass a token.
    passes = [round(n / (report.tokens_per_pass or 1)) for n, report in zip(tokens, reports, strict=True)]
    return Cell(
        key=key,
        requests=len(traces),
        failures=tuple(failures),
        seen_tokens=sum(trace.decoded_tokens for trace in traces),
        seen_ns=sum(trace.decode_ns for trace in traces),
        tokens=sum(tokens) - len(traces),
        passes=sum(passes) - len(traces),
        decode_ns=sum(trace.finished.timings.decode_ns for trace in traces),
        rounds=sum(report.rounds for report in reports),
        drafted_at=_added(report.drafted_at for report in reports),
        accepted_at=_added(report.accepted_at for report in reports),
        ngram_drafted=sum(report.ngram_drafted for report in reports),
        wait_ns=sum(report.draft_wait_ns for report in reports),
    )


def _drawn_tokens(trace: Trace) -> int:
    """Return how many tokens the target drew: an end-of-text token too, which is not sent."""
    return trace.tokens + (trace.finished.reason == FINISH_REASON_END_OF_TEXT)


def _added(lists: Iterable[Sequence[int]]) -> tuple[int, ...]:
    return tuple(map(sum, zip_longest(*lists, fillvalue=0)))
