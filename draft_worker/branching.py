"""Where will the target differ from the draft? That is where side lines are worth computing ahead."""

from collections.abc import Sequence
from math import exp

from draft_worker.proposer import Token


def likely_mismatches(tokens: Sequence[Token], num_places: int) -> list[int]:
    """Return the indices at which a mismatch is likeliest to come first, the likeliest first.

    Two logits that differ by small errors exchange their order the less often, the further they are apart: a margin m
    stands for a mismatch with chance exp(-m) / 2. A mismatch counts at its first place only, so a place's weight is
    its chance times that of a match at all places before. With shared noise the target then mostly takes the
    runner-up.
    """
    reached, weights = 1.0, []
    for index, token in enumerate(tokens):
        mismatch = exp(-max(0.0, token.margin)) / 2
        if token.runner_up_id >= 0:
            weights.append((reached * mismatch, -index))
        reached *= 1 - mismatch
    return [-index for _, index in sorted(weights, reverse=True)[:num_places]]
