"""May the ranks go on by themselves while the gateway decides?

A step that is run ahead hides the hop: transport, decision and the next plan. It is lost where a token is not the
winner that the ranks went on with (top_k, top_p or min_p cut it), and the row then costs another step.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from math import prod

from gateway.scheduling.prefix_cache import PrefixCache
from gateway.scheduling.room_ahead import room_ahead
from gateway.scheduling.sequence import Kind, Sequence

Chosen = Seq[tuple[Sequence, int]]

_SMOOTHING = 0.05
_LEAST_CONFIRMATION = 0.9  # until hop and step have been measured


class RunAheadPolicy:
    """Weighs what is hidden against what is lost. The answer depends on nothing but the observations."""

    def __init__(self, enabled: bool = True) -> None:
        self._enabled = enabled
        self._hop_s: float | None = None
        self._step_s = 0.0

    def observe(self, hop_s: float, step_s: float) -> None:
        """Learn from a step of `step_s` on the ranks, and `hop_s` of everything between two steps."""
        if self._hop_s is None:
            self._hop_s, self._step_s = hop_s, step_s
            return
        # Clipped, so that single outliers of a busy machine move little.
        self._hop_s += _SMOOTHING * (min(hop_s, 4 * self._hop_s) - self._hop_s)
        self._step_s += _SMOOTHING * (min(step_s, 4 * self._step_s) - self._step_s)

    def make_room(self, chosen: Chosen, blocks: PrefixCache) -> tuple[bool, ...]:
        """Return with which sequences of a step the ranks may go on, empty for none; takes free blocks for that.

        `chosen` says how many ids each running sequence feeds. The ranks go on only where the next step holds decodes
        alone, without drafts: else those would be computed beside it, not with it.
        """
        if any(s.kind is Kind.SCORE or s.uncomputed > num_ids or s.speculates or s.draft_ids for s, num_ids in chosen):
            return ()
        return tuple(room_ahead(s, 1, blocks) > 0 for s, _ in chosen) if self.pays(s for s, _ in chosen) else ()

    def pays(self, sequences: Iterable[Sequence]) -> bool:
        """Return whether a step of these sequences, all decoding after it, is worth being followed unasked."""
        if not self._enabled:
            return False
        confirmed = prod(sequence.confirmation for sequence in sequences)
        if self._hop_s is None:
            return confirmed >= _LEAST_CONFIRMATION
        return confirmed * self._hop_s >= (1 - confirmed) * self._step_s
