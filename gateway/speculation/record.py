"""What drafting did for one request."""

from dataclasses import dataclass, field

from tandem.v1 import inference_service_pb2 as pb


@dataclass
class SpeculationRecord:
    """Counts of one request, from which its report is made."""

    passes: int = 0  # that drew a token
    tokens: int = 0
    rounds: int = 0
    drafted_at: list[int] = field(default_factory=list)
    accepted_at: list[int] = field(default_factory=list)
    ngram_drafted: int = 0
    ngram_accepted: int = 0
    wait_ns: int = 0

    def verified(self, drafted: int, accepted: int, tokens: int, by_ngram: bool) -> None:
        """Enter a pass that drew `tokens`, and verified `drafted` tokens of which the first `accepted` were right."""
        self.passes += 1
        self.tokens += tokens
        if not drafted:
            return
        self.rounds += 1
        grown = max(0, drafted - len(self.drafted_at))
        self.drafted_at += [0] * grown
        self.accepted_at += [0] * grown
        for position in range(drafted):
            self.drafted_at[position] += 1
            self.accepted_at[position] += position < accepted
        if by_ngram:
            self.ngram_drafted += drafted
            self.ngram_accepted += accepted

    def report(self) -> pb.SpeculationReport:
        """Return the request's report."""
        return pb.SpeculationReport(
            rounds=self.rounds,
            drafted=sum(self.drafted_at),
            accepted=sum(self.accepted_at),
            drafted_at=self.drafted_at,
            accepted_at=self.accepted_at,
            ngram_drafted=self.ngram_drafted,
            ngram_accepted=self.ngram_accepted,
            tokens_per_pass=self.tokens / max(1, self.passes),
            draft_wait_ns=self.wait_ns,
        )
