"""Do workers draft for batches of so many requests? What was learned outlives the requests it was learned from."""

_SMOOTHING = 0.1
_LEAST_SHARE = 0.5


class WorkerUse:
    """Moving share of the rows that a worker drafted for, by the size of the batch to a power of two.

    A worker that is told of a request reads its prompt, which is lost where no draft follows. So it is told at once
    where most requests of so large a batch were drafted for, and else when it is first asked, which makes its first
    answer late. A size that was never seen is thought of as the next smaller one that was.
    """

    def __init__(self) -> None:
        self._shares = {0: 1.0}  # by the bits of the number of requests

    def observe(self, num_requests: int, share: float) -> None:
        """Learn that in a step of `num_requests` this share of those who could draft did; probes do not count."""
        known = self._share(num_requests)
        self._shares[num_requests.bit_length()] = known + _SMOOTHING * (share - known)

    def pays(self, num_requests: int) -> bool:
        """Return whether most requests draft where there are so many."""
        return self._share(num_requests) >= _LEAST_SHARE

    def _share(self, num_requests: int) -> float:
        return self._shares[max(bits for bits in self._shares if bits <= num_requests.bit_length())]
