"""What a gateway's events mean: which requests are remembered, which proposals are owed, what is refused and why."""

import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from common.arrays import F32, I32, to_wire
from common.draft_protocol import prefix_hash
from draft_worker.messages import Commitment, Events, Opening
from draft_worker.proposer import Ask, Draft, Proposer
from draft_worker.text import Drawing, Key, Text
from tandem.draft.v1 import draft_service_pb2 as pb

# All texts together, int32 each: 64 MiB.
MAX_TOTAL_IDS = 1 << 24


class Answer(NamedTuple):
    """A proposal and the session it goes to; None tells the worker's load alone."""

    session: int
    proposal: pb.Proposal | None


class Desk:
    """The requests of all sessions, bounded in number and in ids: the least recently used is forgotten.

    All calls come from the proposer's thread.
    """

    def __init__(self, proposer: Proposer, max_requests: int, max_count: int) -> None:
        self._proposer = proposer
        self._max_requests, self._max_count = max_requests, max_count
        self._texts: OrderedDict[Key, Text] = OrderedDict()
        self._num_ids = 0
        self.draining = False
        self.num_forgotten = 0  # for want of room

    def __len__(self) -> int:
        return len(self._texts)

    def texts(self) -> Iterable[tuple[Key, Text]]:
        """Return what is remembered, the least recently used first."""
        return self._texts.items()

    def take(self, session: int, target_hash: str, events: Events) -> list[Answer]:
        """Apply one batch of a session and return what can be answered at once."""
        if events.is_empty:
            return [Answer(session, None)]
        for opening in events.opens:
            self._open(Key(session, opening.request), opening, target_hash)
        proposals = [p for commit in events.commits for p in self._commit(session, commit, events.read_ns)]
        for closing in events.closes:
            text = self._texts.get(Key(session, closing.request))
            if text is not None and closing.epoch >= text.epoch:
                self._forget(text.key)
        return [Answer(session, proposal) for proposal in proposals]

    def end(self, session: int) -> list[Answer]:
        """Forget all requests of a session."""
        for key in [key for key in self._texts if key.session == session]:
            self._forget(key)
        return []

    def answers(self, drafts: Iterable[Draft]) -> list[Answer]:
        """Return the answers that finished drafts make."""
        return [Answer(draft.ask.text.key.session, _proposal(draft)) for draft in drafts]

    def _open(self, key: Key, opening: Opening, target_hash: str) -> None:
        known = self._texts.get(key)
        if self.draining or (known is not None and opening.epoch <= known.epoch):
            return
        if known is not None:
            self._forget(key)
        drawing = Drawing(opening.sampling, opening.prompt_length, target_hash)
        self._texts[key] = text = Text(key, opening.epoch, opening.ids, drawing)
        self._num_ids += text.length
        self._proposer.open(text)
        self._forget_beyond_bounds()

    def _commit(self, session: int, commit: Commitment, read_ns: int) -> list[pb.Proposal]:
        """Apply one commit and return the proposals that are answered without work."""
        text = self._texts.get(Key(session, commit.request))
        if self.draining:
            return _refusal(commit, pb.OUTCOME_DRAINING)
        if text is None or text.epoch != commit.epoch:
            return _refusal(commit, pb.OUTCOME_UNKNOWN)
        if commit.round <= text.last_round:
            return _refusal(commit, pb.OUTCOME_STALE)
        if commit.base_length > text.length:
            return _refusal(commit, pb.OUTCOME_GAP, known_length=text.length)
        context_length = self._proposer.about.context_length
        if commit.base_length + len(commit.ids) > context_length:
            return _refusal(commit, pb.OUTCOME_FULL)
        self._texts.move_to_end(text.key)
        text.last_round = commit.round
        overtaken = self._proposer.withdraw(text.key)
        old_length = text.length
        self._proposer.commit(text, old_length, text.commit(commit.base_length, commit.ids))
        self._num_ids += text.length - old_length
        self._forget_beyond_bounds()
        if commit.count:
            count = min(commit.count, self._max_count)
            due_ns = read_ns + commit.deadline_ns if commit.deadline_ns else None
            self._proposer.ask(Ask(text, commit.round, count, read_ns, due_ns))
        return [_proposal(Draft(overtaken, pb.OUTCOME_STALE))] if overtaken else []

    def _forget_beyond_bounds(self) -> None:
        """Forget from the least recently used on, but never the one that was just used."""
        while len(self._texts) > self._max_requests or (self._num_ids > MAX_TOTAL_IDS and len(self._texts) > 1):
            self._forget(next(iter(self._texts)))
            self.num_forgotten += 1

    def _forget(self, key: Key) -> None:
        self._num_ids -= self._texts.pop(key).length
        self._proposer.close(key)


def _refusal(commit: Commitment, outcome: pb.Outcome, known_length: int = 0) -> list[pb.Proposal]:
    if not commit.count:
        return []
    return [
        pb.Proposal(
            request=commit.request,
            epoch=commit.epoch,
            round=commit.round,
            outcome=outcome,
            known_length=known_length,
        )
    ]


def _proposal(draft: Draft) -> pb.Proposal:
    ask, now_ns = draft.ask, time.perf_counter_ns()
    started_ns = ask.started_ns or now_ns
    proposal = pb.Proposal(
        request=ask.text.key.request,
        epoch=ask.text.epoch,
        round=ask.round,
        outcome=draft.outcome,
        queue_ns=started_ns - ask.read_ns,
        compute_ns=now_ns - started_ns,
        num_steps=ask.num_steps,
    )
    if draft.outcome == pb.OUTCOME_PROPOSED:
        proposal.base_length = ask.text.length
        proposal.prefix_hash = prefix_hash(ask.text.ids)
        proposal.ids = to_wire([token.id for token in draft.tokens], I32)
        proposal.probabilities = to_wire([token.probability for token in draft.tokens], F32)
        proposal.margins = to_wire([token.margin for token in draft.tokens], F32)
        proposal.runner_up_ids = to_wire([token.runner_up_id for token in draft.tokens], I32)
        proposal.match_length = draft.match_length
        proposal.num_ready = min(ask.num_ready, len(draft.tokens))
    return proposal
