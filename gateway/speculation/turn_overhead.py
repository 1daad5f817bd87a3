"""What does a turn of the step loop take beyond its passes? One that may draft, and one of a batch at rest.

A turn that may draft ends with each pass: transport, decision and the next plan come between one and the next. A batch
at rest runs several passes a frame. Drafts must beat that, not the turn that they replace.
"""

_SMOOTHING = 0.1
_FORGETTING = 0.01
_MOST_PASSES = 0.5  # what takes longer, by the pass, is an outlier


class TurnOverhead:
    """Moving means in seconds a pass; below 0 where passes take less than is expected of their number of tokens."""

    def __init__(self) -> None:
        self.drafting_s = 0.0
        self.resting_s = 0.0

    def observe(self, is_resting: bool, turn_s: float, passes: int, pass_s: float) -> None:
        """Learn from a turn of `turn_s`, less what it waited for drafts, with `passes` of an expected `pass_s` each."""
        most_s = _MOST_PASSES * pass_s
        overhead_s = min(max(turn_s / passes - pass_s, -most_s), most_s)
        if is_resting:
            self.resting_s += _SMOOTHING * (overhead_s - self.resting_s)
            return
        self.drafting_s += _SMOOTHING * (overhead_s - self.drafting_s)
        # Whoever does not rest learns nothing of it, and would not rest again for one that was unlucky.
        self.resting_s -= _FORGETTING * max(self.resting_s, 0.0)
