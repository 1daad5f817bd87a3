"""One request's drafts: where they may come from, what they may cost, how they fared."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from common.ngram import NOTHING, Lookup, look_up
from gateway.generation import Generation
from gateway.limits import MAX_DRAFT_TOKENS
from gateway.speculation.acceptance import Acceptance
from gateway.speculation.draft_length import Row
from gateway.speculation.draft_request import DraftRequest
from gateway.speculation.length_control import DraftLength
from gateway.speculation.record import SpeculationRecord

# A guess from the text is the better the longer the match it continues, so these fare apart.
Source = Literal["worker", "short match", "match", "long match"]
SOURCES: tuple[Source, ...] = ("worker", "short match", "match", "long match")
_MATCHES: tuple[tuple[int, Source], ...] = ((8, "long match"), (4, "match"), (0, "short match"))

# Expected tokens a second where a draft's acceptance and the most tokens it may have are these; does it wait?
Goodput = Callable[[Acceptance, int, bool], float]

# A worker that was not told of a request reads its whole text first: so many tokens for each that is lacking at most.
READ_WORTH = 3


@dataclass(eq=False, slots=True)
class Drafter:
    """The state of one generation's speculation."""

    job: Generation
    request: DraftRequest
    length: DraftLength
    acceptance: dict[Source, Acceptance]
    record: SpeculationRecord
    announced: bool = field(default=False, init=False)  # a worker was told of it, or asked
    found: Lookup = field(default=NOTHING, init=False)
    asked_source: Source = field(default="worker", init=False)
    source: Source = field(default="worker", init=False)  # of the draft that is to be verified
    ran_ahead: bool = field(default=False, init=False)  # the ranks compute the next token's row as it is, undrafted

    @classmethod
    def of(cls, job: Generation, record: SpeculationRecord, priors: dict[Source, Acceptance]) -> "Drafter":
        """Return the drafter of a new request, which begins with what others were like."""
        sequence = job.sequence
        request = DraftRequest(
            sequence.arrival, sequence.token_ids, sequence.prompt_length, job.params, sequence.traceparent
        )
        acceptance = {source: Acceptance(prior) for source, prior in priors.items()}
        return cls(job, request, DraftLength(job.max_draft_tokens), acceptance, record)

    def row(self, has_worker: bool, reads_text: bool, is_crowded: bool, goodput: Goodput) -> Row:
        """Return what bounds and drives the next draft; looks the text up where `reads_text`.

        A guess from the text costs no wait, and a worker's is mostly the better one: `goodput` says which pays more.
        `is_crowded`: no worker is to read texts now, but for a probe.
        """
        sequence = self.job.sequence
        lacking = sequence.max_length - len(sequence.token_ids)
        cap = min(MAX_DRAFT_TOKENS, lacking - 1)
        has_worker = has_worker and (self.announced or lacking * READ_WORTH >= len(sequence.token_ids))
        self.found = look_up(np.array(sequence.token_ids, np.int32), cap) if reads_text else NOTHING
        worker, text = self.acceptance["worker"], self.acceptance[self.text_source]
        num_found = len(self.found.ids)
        if num_found and (not has_worker or goodput(text, num_found, False) >= goodput(worker, cap, True)):
            self.asked_source = self.text_source
            return self.length.row(text, num_found, False, ran_ahead=self.ran_ahead)
        self.asked_source = "worker"
        probes_only = is_crowded and not self.announced
        return self.length.row(worker, cap if has_worker else 0, True, probes_only, self.ran_ahead)

    @property
    def text_source(self) -> Source:
        """What kind of match the text gave."""
        return next(source for least, source in _MATCHES if self.found.match_length >= least)

    def compare(self, drawn: Sequence[int]) -> None:
        """Learn from the tokens of a pass that verified a worker's draft what the text's guess would have come to."""
        if self.source == "worker" and len(self.found.ids):
            guessed = self.found.ids[: len(drawn)].tolist()
            right = next((at for at, id in enumerate(guessed) if id != drawn[at]), len(guessed))
            self.acceptance[self.text_source].record(min(right + 1, len(guessed)), right)

    def verified(self, drafted: int, accepted: int, tokens: int) -> None:
        """Enter a pass that drew `tokens`, the first `accepted` of which were those of `drafted` ones."""
        self.record.verified(drafted, accepted, tokens, by_ngram=self.source != "worker")
        self.acceptance[self.source].record(drafted, accepted)
