"""Answers that never ran, of a gateway whose chances and costs are known."""

from common.commands.bench.speculate.cell import Cell, Key, cell_of
from common.commands.bench.trace import Arrival, Trace
from tandem.v1 import inference_service_pb2 as pb

MS = 1_000_000


def answer(rounds: list[int], length: int, pass_ms: int, wait_ms: int = 0, ended: bool = False) -> Trace:
    """Return an answer whose passes after the first token accepted so many of `length` drafted tokens each.

    `ended` makes its last token one of end-of-text, which is drawn and not sent.
    """
    arrivals = [Arrival(0, 1)]
    for number, accepted in enumerate(rounds, start=1):
        sent = accepted + 1 - (ended and number == len(rounds))
        if sent:
            arrivals.append(Arrival(number * pass_ms * MS, sent))
    drawn = 1 + sum(rounds) + len(rounds)
    finished = pb.GenerateFinished(
        reason=pb.FINISH_REASON_END_OF_TEXT if ended else pb.FINISH_REASON_LENGTH,
        usage=pb.Usage(completion_tokens=drawn - ended),
        timings=pb.Timings(decode_ns=len(rounds) * pass_ms * MS),
    )
    if length and rounds:
        report = finished.speculation
        report.rounds, report.drafted, report.accepted = len(rounds), length * len(rounds), sum(rounds)
        report.drafted_at.extend([len(rounds)] * length)
        report.accepted_at.extend(sum(accepted > position for accepted in rounds) for position in range(length))
        report.tokens_per_pass = drawn / (1 + len(rounds))
        report.draft_wait_ns = wait_ms * MS * len(rounds)
    return Trace(0, len(rounds) * pass_ms * MS, tuple(arrivals), finished)


def cell(temperature: float, rounds: list[int], length: int, pass_ms: int, proposer: str = "worker") -> Cell:
    """Return the cell of one such answer; a round waits 1 ms."""
    return cell_of(Key(proposer, temperature, length), [answer(rounds, length, pass_ms, wait_ms=1)])
