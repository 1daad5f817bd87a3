"""How many prefill tokens may ride along with decode rows.

The model of a step: duration = base(decode rows) + cost * prefill tokens. Both are learned from what was
observed, as exponentially weighted means of clipped observations, so that single outliers of a busy machine
move them little.
"""

MIN_CHUNK_TOKENS = 4
START_TOKENS = 64
REFRESH_STEPS = 64

_SMOOTHING = 0.1
_FIRST_OBSERVATIONS = 4
_COST_MEMORY = 0.8


class _Base:
    """Duration of a step without prefill: the least at first, then a moving mean of clipped observations."""

    def __init__(self) -> None:
        self.duration_s = 0.0
        self._count = 0

    def observe(self, duration_s: float) -> None:
        self._count += 1
        if self._count == 1:
            self.duration_s = duration_s
        elif self._count <= _FIRST_OBSERVATIONS:
            # The first steps of a process are slow for reasons that do not last.
            self.duration_s = min(self.duration_s, duration_s)
        else:
            clipped_s = min(max(duration_s, self.duration_s / 2), self.duration_s * 2)
            self.duration_s += _SMOOTHING * (clipped_s - self.duration_s)


class _Cost:
    """Time per prefill token: time beyond the base over tokens, both fading, so long chunks weigh most."""

    def __init__(self) -> None:
        self._excess_s = 0.0
        self._tokens = 0.0
        self._count = 0

    @property
    def per_token_s(self) -> float | None:
        """None before the first observation."""
        return max(self._excess_s / self._tokens, 0.0) if self._count else None

    def observe(self, tokens: int, duration_s: float, base_s: float) -> None:
        excess_s = duration_s - base_s
        self._count += 1
        if self._count <= _FIRST_OBSERVATIONS:
            if self._count == 1 or excess_s * self._tokens < self._excess_s * tokens:
                self._excess_s, self._tokens = max(excess_s, 0.0), tokens
            return
        if self.per_token_s:
            # Symmetric bounds: one-sided ones would turn noise into cost.
            bound_s = max(4 * self.per_token_s * tokens, base_s / 4)
            excess_s = min(max(excess_s, -bound_s), bound_s)
        self._excess_s = _COST_MEMORY * self._excess_s + excess_s
        self._tokens = _COST_MEMORY * self._tokens + tokens


class PrefillPacer:
    """Learns how many prefill tokens keep a step within `slowdown_limit` times a step without any.

    The answer depends on nothing but the observations: there is no clock in here.
    """

    def __init__(self, slowdown_limit: float, max_step_tokens: int) -> None:
        self._slowdown_limit = slowdown_limit
        self._max_step_tokens = max_step_tokens
        self._bases: dict[int, _Base] = {}
        self._cost = _Cost()
        self._most_tokens = 0
        self._steps_since_base = 0

    @property
    def _wants_base(self) -> bool:
        return self._steps_since_base >= REFRESH_STEPS

    @property
    def cost_s(self) -> float | None:
        """Time that one more prefill token adds to a step; None before any was observed."""
        return self._cost.per_token_s

    def base_s(self, decode_rows: int) -> float | None:
        """Return the time of a step without prefill and with about so many rows; None before any was seen."""
        if not self._bases:
            return None
        bucket = _bucket(decode_rows)
        nearest = min(self._bases, key=lambda known: (abs(known - bucket), known))
        return self._bases[nearest].duration_s

    def observe(self, decode_rows: int, prefill_tokens: int, duration_s: float) -> None:
        """Learn from a step that took `duration_s`, which must be positive."""
        assert duration_s > 0
        if prefill_tokens == 0 or (decode_rows and self._wants_base and prefill_tokens <= MIN_CHUNK_TOKENS):
            # A cost learned before any base was known still contains it.
            cost_s = self.cost_s if self._bases else None
            own_s = max(duration_s - prefill_tokens * (cost_s or 0.0), duration_s / 2)
            self._bases.setdefault(_bucket(decode_rows), _Base()).observe(own_s)
            self._steps_since_base = 0
            return
        self._cost.observe(prefill_tokens, duration_s, self.base_s(decode_rows) or 0.0)
        if decode_rows:
            self._steps_since_base += 1
            self._most_tokens = max(self._most_tokens, prefill_tokens)

    def allowance(self, decode_rows: int) -> int:
        """Return how many prefill tokens the next step may hold beside `decode_rows` decode rows.

        Never less than MIN_CHUNK_TOKENS, so that prefill always moves on, and never more than the step's
        limit.
        """
        if decode_rows == 0:
            return self._max_step_tokens
        return min(max(self._affordable(decode_rows), MIN_CHUNK_TOKENS), self._max_step_tokens)

    def _affordable(self, decode_rows: int) -> int:
        base_s, cost_s = self.base_s(decode_rows), self.cost_s
        if self._slowdown_limit <= 1 or self._wants_base:
            # Under constant prefill the base would grow stale: now and then a step is nearly free of it.
            return MIN_CHUNK_TOKENS
        # Cost need not be linear, so the allowance at most doubles what has been tried.
        most = max(START_TOKENS, 2 * self._most_tokens)
        if base_s is None or cost_s is None:
            return START_TOKENS
        return int(min((self._slowdown_limit - 1) * base_s / cost_s, most)) if cost_s else most


def _bucket(decode_rows: int) -> int:
    """Row counts are told apart by powers of two."""
    return decode_rows.bit_length()
