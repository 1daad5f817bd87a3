"""Proposals from the request's own text, without a model."""

from common.ngram import agreement, look_up
from draft_worker.proposer import About, Ask, Draft, Token, Usage
from draft_worker.text import Key, Text
from tandem.draft.v1 import draft_service_pb2 as pb

MAX_CONTEXT_TOKENS = 1 << 20


class NgramProposer:
    """A Proposer by prompt lookup. It keeps nothing beside the texts, which it is given with each ask."""

    def __init__(self) -> None:
        self.about = About("ngram", "", "", 0, MAX_CONTEXT_TOKENS, 0)
        self.usage = Usage()
        self._asks: dict[Key, Ask] = {}

    @property
    def waiting(self) -> int:
        """How many asks are not answered."""
        return len(self._asks)

    def open(self, text: Text) -> None:
        """Nothing is kept of a text."""

    def commit(self, text: Text, old_length: int, unchanged: int) -> None:
        """Nothing is kept of a text."""

    def ask(self, ask: Ask) -> None:
        """Have it answered by the next `work`."""
        self._asks[ask.text.key] = ask

    def withdraw(self, key: Key) -> Ask | None:
        """Forget the ask that waits for this text, and return it."""
        return self._asks.pop(key, None)

    def close(self, key: Key) -> None:
        """Forget what waits for this text."""
        self._asks.pop(key, None)

    def work(self) -> list[Draft] | None:
        """Answer everything that waits: a lookup takes microseconds."""
        asks, self._asks = self._asks, {}
        return [_draft(ask) for ask in asks.values()] or None


def _draft(ask: Ask) -> Draft:
    ask.start()
    found = look_up(ask.text.ids, ask.count)
    pairs = zip(found.ids.tolist(), agreement(ask.text.ids, found).tolist(), strict=True)
    tokens = [Token(id_, share, 0.0, -1) for id_, share in pairs]
    return Draft(ask, pb.OUTCOME_PROPOSED, tokens, found.match_length)
