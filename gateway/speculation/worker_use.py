"""Do workers draft for batches of so many requests? What was learned outlives the requests it was learned from."""

_SMOOTHING = 0.1
_LEAST_SHARE = 0.5
_REST_STEPS = 2000


class WorkerUse:
    """Moving share of the rows that a worker drafted for, by the size of the batch to a power of two.

    A worker that is told of a request reads its prompt, which is lost where no draft follows. So it is told at once
    where most requests of so large a batch were drafted for, and else when it is first asked, which makes its first
    answer late. A size that was never seen is thought of as the next smaller one that was. What was found not to pay is
    tried again after _REST_STEPS steps at rest.
    """

    def __init__(self) -> None:
        self._shares = {0: 1.0}  # by the bits of the number of requests
        self._rested = 0

    def observe(self, num_requests: int, share: float) -> None:
        """Learn that in a step of `num_requests` this share of those who could draft did; probes do not count."""
        known = self._share(num_requests)
        self._shares[num_requests.bit_length()] = known + _SMOOTHING * (share - known)

    def pays(self, num_requests: int) -> bool:
        """Return whether most requests draft where there are so many."""
        return self._share(num_requests) >= _LEAST_SHARE or self._rested >= _REST_STEPS

    def rest(self, num_requests: int) -> None:
        """Learn that a batch of `num_requests` rested for a step."""
        self.observe(num_requests, 0.0)
        self._rested += 1

    def told(self) -> None:
        """Learn that workers were told of whom they did not know: it was tried again."""
        self._rested = 0

    def _share(self, num_requests: int) -> float:
        return self._shares[max(bits for bits in self._shares if bits <= num_requests.bit_length())]
