"""May the ranks go on by themselves while the gateway decides?

A step that is run ahead hides the hop: transport, decision and the next plan. It is lost where a token is not the
winner that the ranks went on with (top_k, top_p or min_p cut it), and the row then costs another step.

A row that is continued within the step saves whole hops, and is lost the same way.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from math import prod

from gateway.scheduling.frame_length import frame_length
from gateway.scheduling.prefix_cache import PrefixCache
from gateway.scheduling.room_ahead import room_ahead
from gateway.scheduling.sequence import Kind, Sequence

Chosen = Seq[tuple[Sequence, int]]

_SMOOTHING = 0.05
_LEAST_CONFIRMATION = 0.9  # until hop and step have been measured


@dataclass
class _Durations:
    """What frames of about equally many rows took: moving means, and the last step."""

    hop_s: float
    step_s: float
    last_step_s: float

    def observe(self, hop_s: float, step_s: float) -> None:
        # Clipped, so that single outliers of a busy machine move little.
        self.hop_s += _SMOOTHING * (min(hop_s, 4 * self.hop_s) - self.hop_s)
        self.step_s += _SMOOTHING * (min(step_s, 4 * self.step_s) - self.step_s)
        self.last_step_s = step_s


class RunAheadPolicy:
    """Weighs what is hidden against what is lost. The answer depends on nothing but the observations."""

    def __init__(self, enabled: bool = True, max_tokens_per_frame: int = 1, max_frame_s: float = 0.03) -> None:
        """Rows are run ahead if `enabled`, and continued whether or not."""
        self._enabled = enabled
        self._max_tokens, self._max_frame_s = max_tokens_per_frame, max_frame_s
        self._durations: dict[int, _Durations] = {}  # by the bits of the number of rows

    def observe(self, hop_s: float, step_s: float, num_rows: int = 1) -> None:
        """Learn from a frame: `step_s` on the ranks for each pass, and `hop_s` of everything between two frames."""
        known = self._durations.get(num_rows.bit_length())
        if known is None:
            self._durations[num_rows.bit_length()] = _Durations(hop_s, step_s, step_s)
        else:
            known.observe(hop_s, step_s)

    def continue_by(self, chosen: Chosen, blocks: PrefixCache) -> int:
        """Return by how many positions all rows of a step may be continued in it; takes free blocks for that.

        Only where the step holds decodes alone, without drafts. Where blocks are short none are taken: they would push
        out who is running.
        """
        known = self._durations.get(len(chosen).bit_length())
        if known is None or self._max_tokens < 2 or blocks.available < 2 * len(chosen):
            return 0
        if not all(_decodes(sequence) for sequence, _ in chosen):
            return 0
        # What makes steps long, such as another load on the machine, counts at once, while the mean still follows.
        step_s = max(known.step_s, known.last_step_s)
        most = min(self._max_tokens, int(self._max_frame_s / max(step_s, 1e-9)))
        if most < 2:
            return 0
        wanted = frame_length(most, known.hop_s, step_s, min(s.confirmation for s, _ in chosen)) - 1
        return min(room_ahead(s, wanted, blocks) for s, _ in chosen) if wanted > 0 else 0

    def make_room(self, chosen: Chosen, blocks: PrefixCache, continued: int = 0) -> tuple[bool, ...]:
        """Return with which sequences of a step the ranks may go on, empty for none; takes free blocks for that.

        `chosen` says how many ids each running sequence feeds. The ranks go on only where the next step holds decodes
        alone, without drafts: else those would be computed beside it, not with it.
        """
        if any(s.kind is Kind.SCORE or s.uncomputed > num_ids or s.speculates or s.draft_ids for s, num_ids in chosen):
            return ()
        if not self.pays([s for s, _ in chosen]):
            return ()
        return tuple(room_ahead(s, continued + 1, blocks) > continued for s, _ in chosen)

    def pays(self, sequences: Seq[Sequence]) -> bool:
        """Return whether a step of these sequences, all decoding after it, is worth being followed unasked."""
        if not self._enabled:
            return False
        confirmed = prod(sequence.confirmation for sequence in sequences)
        known = self._durations.get(len(sequences).bit_length())
        if known is None:
            return confirmed >= _LEAST_CONFIRMATION
        return confirmed * known.hop_s >= (1 - confirmed) * known.step_s


def _decodes(sequence: Sequence) -> bool:
    """Whether it feeds one id without drafts. Who waits for the first token is not to wait for more."""
    is_decode = sequence.kind is Kind.GENERATE and sequence.uncomputed == 1
    has_drafts = sequence.speculates or sequence.drafts_any_time or sequence.draft_ids
    return is_decode and not has_drafts and len(sequence.token_ids) > sequence.prompt_length
