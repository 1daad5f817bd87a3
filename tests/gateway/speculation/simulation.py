"""A simulated target and draft: chances and costs are given, what happens is drawn, with noise and outliers."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gateway.speculation.acceptance import Acceptance
from gateway.speculation.length_control import DraftLength, LengthControl
from gateway.speculation.step_costs import DraftCosts, StepCosts
from gateway.speculation.turn_overhead import TurnOverhead

OVERHEAD_S = 0.0005


@dataclass
class Machine:
    """step_s: by tokens. wait_s: by the longest draft; one beyond its deadline does not arrive."""

    step_s: Callable[[int], float]
    wait_s: Callable[[int], float] = lambda count: 0.0
    seed: int = 0
    noise: float = 0.1
    outliers: float = 0.01
    steps: StepCosts = field(default_factory=StepCosts)
    dice: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.waits = DraftCosts(self.steps)
        self.control = LengthControl(self.steps, self.waits)
        self.overhead = TurnOverhead()
        self.overhead.drafting_s = self.overhead.resting_s = OVERHEAD_S

    def noisy(self, duration_s: float) -> float:
        outlier = 10.0 if self.dice.random() < self.outliers else 1.0
        return duration_s * self.dice.uniform(1 - self.noise, 1 + self.noise) * outlier

    def plain_s(self, rows: int) -> float:
        return self.step_s(rows) + OVERHEAD_S

    def goodput(self, chances: Sequence[float], length: int, rows: int = 1) -> float:
        """The true tokens per second of a fixed length."""
        tokens, whole = 1.0, 1.0
        for chance in chances[:length]:
            whole *= chance
            tokens += whole
        wait_s = self.wait_s(length) if length else 0.0
        return rows * tokens / (self.step_s(rows * (1 + length)) + OVERHEAD_S + wait_s)

    def best_goodput(self, chances: Sequence[float], rows: int = 1) -> float:
        return max(self.goodput(chances, length, rows) for length in range(9))


class Request:
    """One request on a machine; `chances` are conditional, by position, and may be changed at any time."""

    def __init__(
        self, chances: Sequence[float], prior: Acceptance, most: int | None = None, waits: bool = True
    ) -> None:
        self.chances = chances
        self.acceptance = Acceptance(prior)
        self.draft = DraftLength(most)
        self.waits = waits


@dataclass
class Outcome:
    """What steps gave: `goodput` is expected tokens over true time, so that only decisions are judged, not luck."""

    tokens: float = 0.0
    time_s: float = 0.0
    lengths: list[list[int]] = field(default_factory=list)

    @property
    def goodput(self) -> float:
        return self.tokens / self.time_s


def run(machine: Machine, requests: Sequence[Request], num_steps: int) -> Outcome:
    """Take steps as the step loop would: choose, wait, verify, record."""
    outcome = Outcome()
    for _ in range(num_steps):
        rows = [request.draft.row(request.acceptance, 8, request.waits) for request in requests]
        lengths = machine.control.next_lengths([request.draft for request in requests], rows, machine.overhead)
        outcome.lengths.append(lengths)
        longest = max(length if request.waits else 0 for request, length in zip(requests, lengths, strict=True))
        arrived = True
        if longest:
            wait_s, deadline_s = machine.wait_s(longest), machine.waits.deadline_s(longest)
            arrived = wait_s <= deadline_s
            outcome.time_s += min(wait_s, deadline_s)
            machine.waits.observe(longest, min(machine.noisy(wait_s), deadline_s), arrived)
        verified = [n if arrived or not r.waits else 0 for r, n in zip(requests, lengths, strict=True)]
        num_tokens = len(requests) + sum(verified)
        outcome.time_s += machine.step_s(num_tokens) + OVERHEAD_S
        machine.steps.observe(num_tokens, machine.noisy(machine.step_s(num_tokens)))
        for request, length in zip(requests, verified, strict=True):
            outcome.tokens += _verify(request, length, machine.dice)
    return outcome


def _verify(request: Request, length: int, dice: random.Random) -> float:
    """Record what a verification accepted; return the tokens it was expected to give."""
    accepted = 0
    while accepted < length and dice.random() < request.chances[accepted]:
        accepted += 1
    request.acceptance.record(length, accepted)
    tokens, whole = 1.0, 1.0
    for chance in request.chances[:length]:
        whole *= chance
        tokens += whole
    return tokens
