"""Cost by size, learned from noisy observations of some sizes: a curve that never falls."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

_MOST_WEIGHT = 20
_STALE = 30  # after so many observations of other sizes, a bucket is half stale
_LEAST_SPREAD = 7 / 8  # a pair of sizes closer than this says more about noise than about slope
_CAUTION = 0.25


@dataclass(slots=True)
class _Bucket:
    """Exponentially weighted means of the sizes and costs that fell into it."""

    size: float
    cost_s: float
    seen_at: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class _Curve:
    """Costs at rising sizes; the costs never fall."""

    sizes: tuple[float, ...]
    costs_s: tuple[float, ...]
    shape: Callable[[float], float]

    def at(self, size: float) -> float:
        sizes, costs_s = self.sizes, self.costs_s
        right = bisect_left(sizes, size)
        if right == 0:
            return costs_s[0] * self.shape(size) / self.shape(sizes[0])
        if right == len(sizes):
            return costs_s[-1] + (size - sizes[-1]) * self._last_slope_s()
        share = (size - sizes[right - 1]) / (sizes[right] - sizes[right - 1])
        return costs_s[right - 1] + share * (costs_s[right] - costs_s[right - 1])

    def _last_slope_s(self) -> float:
        """Return the cost of one more than the largest size: as between known sizes, else as in the assumed shape."""
        size, cost_s = self.sizes[-1], self.costs_s[-1]
        assumed_s = cost_s * (self.shape(size + 1) / self.shape(size) - 1)
        left = bisect_right(self.sizes, size * _LEAST_SPREAD) - 1
        if left < 0:
            return assumed_s
        return max((cost_s - self.costs_s[left]) / (size - self.sizes[left]), _CAUTION * assumed_s)


class CostTable:
    """Means of costs in buckets of sizes, and between and beyond them what is likely.

    `buckets` are the largest sizes of each bucket, rising. `shape` is how costs are assumed to grow as far as nothing
    is known. A bucket is trusted after `trusted_after` observations, until when it keeps the least of them (the first
    are slow for reasons that do not last) and may lower the curve but not raise it: a size that was unlucky once would
    never be tried again. From then on observations are clipped to within `clip` times the mean, and weigh at least
    `smoothing`.

    What has not been observed for long moves with what is: a machine that is busier, or longer contexts, slow down
    every size, not only the one in use.
    """

    def __init__(
        self, buckets: Sequence[int], shape: Callable[[float], float], trusted_after: int, clip: float, smoothing: float
    ) -> None:
        self._limits = buckets
        self._shape = shape
        self._trusted_after = trusted_after
        self._clip = clip
        self._smoothing = smoothing
        self._buckets: dict[int, _Bucket] = {}
        self._observations = 0
        self._curve: _Curve | None = None

    def observe(self, size: int, cost_s: float) -> None:
        """Learn that `size` cost `cost_s`, which must be positive."""
        assert size > 0 and cost_s > 0
        self._observations += 1
        self._curve = None
        place = min(bisect_left(self._limits, size), len(self._limits) - 1)
        bucket = self._buckets.get(place)
        if bucket is None:
            self._buckets[place] = _Bucket(size, cost_s, self._observations)
            return
        bucket.count += 1
        before_s = bucket.cost_s
        rate = max(self._smoothing, 1 / (max(bucket.count - self._trusted_after, 0) + 3))
        bucket.size += rate * (size - bucket.size)
        if bucket.count <= self._trusted_after:
            bucket.cost_s = min(before_s, cost_s)
        else:
            clipped_s = min(max(cost_s, before_s / self._clip), before_s * self._clip)
            bucket.cost_s += rate * (clipped_s - before_s)
            self._move_others(bucket, bucket.cost_s / before_s)
        bucket.seen_at = self._observations

    def predict(self, size: int) -> float | None:
        """Return the expected cost of `size`, which never falls with it; None before any bucket is trusted."""
        if self._curve is None:
            trusted = [bucket for _, bucket in sorted(self._buckets.items()) if self._trusts(bucket)]
            if not trusted:
                return None
            self._curve = curve = self._fit(trusted)
            if len(trusted) < len(self._buckets):
                self._curve = self._fit(
                    bucket
                    for _, bucket in sorted(self._buckets.items())
                    if self._trusts(bucket) or bucket.cost_s <= curve.at(bucket.size)
                )
        return self._curve.at(size)

    def _trusts(self, bucket: _Bucket) -> bool:
        return bucket.count >= self._trusted_after

    def _staleness(self, bucket: _Bucket) -> float:
        age = self._observations - 1 - bucket.seen_at
        return age / (age + _STALE)

    def _move_others(self, moved: _Bucket, ratio: float) -> None:
        freshness = 1 - self._staleness(moved)
        for bucket in self._buckets.values():
            if bucket is not moved:
                bucket.cost_s *= 1 + freshness * self._staleness(bucket) * (ratio - 1)

    def _fit(self, buckets: Iterable[_Bucket]) -> _Curve:
        """Return the nearest curve that never falls: neighbours that do are pooled (Ayer et al. 1955)."""
        pools: list[tuple[float, int, list[float]]] = []  # mean cost, weight, sizes
        for bucket in buckets:
            cost_s, weight, sizes = bucket.cost_s, min(bucket.count, _MOST_WEIGHT), [bucket.size]
            while pools and pools[-1][0] >= cost_s:
                left_s, left_weight, left_sizes = pools.pop()
                cost_s = (left_s * left_weight + cost_s * weight) / (left_weight + weight)
                weight += left_weight
                sizes = left_sizes + sizes
            pools.append((cost_s, weight, sizes))
        points = [(size, cost_s) for cost_s, _, pooled in pools for size in pooled]
        return _Curve(tuple(size for size, _ in points), tuple(cost_s for _, cost_s in points), self._shape)
