"""Cost by size, learned from noisy observations of some sizes: a curve that never falls."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor

import numpy as np

_MOST_WEIGHT = 20
_LEAST_SPREAD = 7 / 8  # a pair of sizes closer than this says more about noise than about slope
_CAUTION = 0.25


@dataclass(slots=True)
class _Bucket:
    """Exponentially weighted means of the sizes that fell into it, and of their costs as parts of the level."""

    size: float
    relative: float
    count: int = 1


@dataclass(frozen=True, slots=True)
class _Curve:
    """Relative costs at rising sizes; the costs never fall."""

    sizes: tuple[float, ...]
    costs: tuple[float, ...]
    shape: Callable[[float], float]

    def at(self, size: float) -> float:
        sizes, costs = self.sizes, self.costs
        right = bisect_left(sizes, size)
        if right == 0:
            return costs[0] * self.shape(size) / self.shape(sizes[0])
        if right == len(sizes):
            return costs[-1] + (size - sizes[-1]) * self._last_slope()
        share = (size - sizes[right - 1]) / (sizes[right] - sizes[right - 1])
        return costs[right - 1] + share * (costs[right] - costs[right - 1])

    def at_each(self, first: int, count: int) -> list[float]:
        """Return `at` of `count` sizes from `first` on."""
        sizes, last = np.arange(first, first + count), self.sizes[-1]
        costs: list[float] = np.interp(sizes, self.sizes, self.costs).tolist()
        for size in range(first, min(first + count, ceil(self.sizes[0]))):
            costs[size - first] = self.at(size)
        slope, beyond = self._last_slope(), max(floor(last) + 1, first)
        for size in range(beyond, first + count):
            costs[size - first] = self.costs[-1] + (size - last) * slope
        return costs

    def _last_slope(self) -> float:
        """Return the cost of one more than the largest size: as between known sizes, else as in the assumed shape."""
        size, cost = self.sizes[-1], self.costs[-1]
        assumed = cost * (self.shape(size + 1) / self.shape(size) - 1)
        left = bisect_right(self.sizes, size * _LEAST_SPREAD) - 1
        if left < 0:
            return assumed
        return max((cost - self.costs[left]) / (size - self.sizes[left]), _CAUTION * assumed)


class CostTable:
    """Means of costs in buckets of sizes, and between and beyond them what is likely.

    `buckets` are the largest sizes of each bucket, rising. `shape` is how costs are assumed to grow as far as nothing
    is known. A bucket is trusted after `trusted_after` observations, until when it keeps the least of them (the first
    are slow for reasons that do not last) and may lower the curve but not raise it: a size that was unlucky once would
    never be tried again. From then on observations are clipped to within `clip` times the mean, and weigh at least
    `smoothing`.

    A cost is a level of all sizes times a bucket's own relative cost, and of each change the level takes the share
    `common`: a machine that is busier, or longer contexts, slow down every size, not only the one in use.
    """

    def __init__(
        self,
        buckets: Sequence[int],
        shape: Callable[[float], float],
        trusted_after: int,
        clip: float,
        smoothing: float,
        common: float,
    ) -> None:
        self._limits = buckets
        self._shape = shape
        self._trusted_after = trusted_after
        self._clip = clip
        self._smoothing = smoothing
        self._common = common
        self._buckets: dict[int, _Bucket] = {}
        self._level_s = 1.0
        self._curve: _Curve | None = None

    def observe(self, size: int, cost_s: float) -> None:
        """Learn that `size` cost `cost_s`, which must be positive."""
        assert size > 0 and cost_s > 0
        self._curve = None
        place = min(bisect_left(self._limits, size), len(self._limits) - 1)
        bucket = self._buckets.get(place)
        if bucket is None:
            self._buckets[place] = _Bucket(size, cost_s / self._level_s)
            return
        bucket.count += 1
        rate = max(self._smoothing, 1 / (max(bucket.count - self._trusted_after, 0) + 3))
        ratio = cost_s / (self._level_s * bucket.relative)
        if bucket.count <= self._trusted_after:
            if ratio < 1:
                bucket.size, bucket.relative = size, bucket.relative * ratio
            return
        bucket.size += rate * (size - bucket.size)
        change = 1 + rate * (min(max(ratio, 1 / self._clip), self._clip) - 1)
        # What a bucket moves beyond the usual rate is its own, for it is still being learned.
        common = change ** (self._common * self._smoothing / rate)
        self._level_s *= common
        bucket.relative *= change / common

    def predict(self, size: int) -> float | None:
        """Return the expected cost of `size`, which never falls with it; None before any bucket is trusted."""
        curve = self._known_curve()
        return None if curve is None else self._level_s * curve.at(size)

    def predict_each(self, first: int, count: int) -> list[float] | None:
        """Return `predict` of `count` sizes from `first` on."""
        curve = self._known_curve()
        return None if curve is None else [self._level_s * cost for cost in curve.at_each(first, count)]

    def _known_curve(self) -> _Curve | None:
        if self._curve is None:
            buckets = [bucket for _, bucket in sorted(self._buckets.items())]
            trusted = [bucket for bucket in buckets if bucket.count >= self._trusted_after]
            if not trusted:
                return None
            curve = self._fit(trusted)
            believed = [bucket for bucket in buckets if bucket in trusted or bucket.relative <= curve.at(bucket.size)]
            self._curve = self._fit(believed) if len(believed) > len(trusted) else curve
        return self._curve

    def _fit(self, buckets: Iterable[_Bucket]) -> _Curve:
        """Return the nearest curve that never falls: neighbours that do are pooled (Ayer et al. 1955)."""
        pools: list[tuple[float, int, list[float]]] = []  # mean relative cost, weight, sizes
        for bucket in buckets:
            relative, weight, sizes = bucket.relative, min(bucket.count, _MOST_WEIGHT), [bucket.size]
            while pools and pools[-1][0] >= relative:
                left, left_weight, leftizes = pools.pop()
                relative = (left * left_weight + relative * weight) / (left_weight + weight)
                weight += left_weight
                sizes = leftizes + sizes
            pools.append((relative, weight, sizes))
        points = [(size, relative) for relative, _, pooled in pools for size in pooled]
        return _Curve(tuple(size for size, _ in points), tuple(relative for _, relative in points), self._shape)
