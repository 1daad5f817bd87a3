"""How often does the target draw what the draft draws, and which draft temperature makes it most often?

The coupling is that of Daliri, Musco and Suresh 2024 (arXiv 2408.07978): both add the same Gumbel noise. Shapes: P
positions of a text, V token ids, B factors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shard_worker.sampling.noise import gumbel_noise


@dataclass(frozen=True)
class Counts:
    """Sums over positions at one temperature.

    accepted: int per factor beta, the draft's draw at temperature * beta being the target's. greedy: the draft's most
    likely token being the target's draw. optimum: float, the sum of sum_i min(p_i, q_i), which no rule without
    communication beats and only rules that see both distributions reach (q at factor 1).
    """

    positions: int
    accepted_B: tuple[int, ...]
    greedy: int
    optimum: float

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.positions + other.positions,
            tuple(a + b for a, b in zip(self.accepted_B, other.accepted_B, strict=True)),
            self.greedy + other.greedy,
            self.optimum + other.optimum,
        )


def count_accepted(
    draft_PV: Tensor, target_PV: Tensor, temperature: float, betas: Sequence[float], seed: int, first_position: int
) -> Counts:
    """Return the counts over P positions of one text, which follow one another from `first_position` on.

    draft_PV, target_PV: float32[P, V], raw logits. temperature 0 draws the most likely token, whatever beta is.
    """
    greedy_P = draft_PV.argmax(dim=1)
    if temperature == 0:
        same = int((greedy_P == target_PV.argmax(dim=1)).sum())
        return Counts(len(greedy_P), (same,) * len(betas), same, float(same))
    positions = torch.arange(first_position, first_position + len(draft_PV))
    seeds = torch.full_like(positions, seed)
    noise_PV = gumbel_noise(seeds, positions, 0, draft_PV.shape[1], draft_PV.device)
    drawn_P = (target_PV / temperature + noise_PV).argmax(dim=1)
    accepted = (
        int(((draft_PV / (temperature * beta) + noise_PV).argmax(dim=1) == drawn_P).sum().item()) for beta in betas
    )
    p_PV, q_PV = (logits / temperature for logits in (target_PV, draft_PV))
    optimum = torch.minimum(p_PV.softmax(dim=1), q_PV.softmax(dim=1)).sum()
    return Counts(len(drawn_P), tuple(accepted), int((greedy_P == drawn_P).sum()), float(optimum))
