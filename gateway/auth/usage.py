"""How much does a tenant use, and may it have more?"""

import time
from collections.abc import Callable

from common.errors import QuotaExceeded
from gateway.auth.tenants import Tenant

MINUTE_S = 60.0


class Usage:
    """One tenant's running streams, and its tokens as a leaky bucket (Turner 1986).

    Tokens of prompts and answers fill the bucket, which holds a minute's limit and drains evenly. While it is full no
    new request is taken; a running one is never cut short, so it may overflow by what those still generate.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._streams = 0
        self._level_tokens = 0.0
        self._drained_s = clock_s()

    @property
    def streams(self) -> int:
        """Requests that run."""
        return self._streams

    def begin(self, tenant: Tenant) -> None:
        """Count one more request. Raises QuotaExceeded, and counts nothing, at a limit of the tenant."""
        if tenant.max_streams is not None and self._streams >= tenant.max_streams:
            raise QuotaExceeded(f"at most {tenant.max_streams} requests of this tenant may run at once")
        if tenant.max_tokens_per_minute is not None:
            over_tokens = self._drained(tenant.max_tokens_per_minute) - tenant.max_tokens_per_minute
            if over_tokens >= 0:
                wait_s = max(0.1, (over_tokens + 1) * MINUTE_S / tenant.max_tokens_per_minute)
                raise QuotaExceeded(
                    f"this tenant may use {tenant.max_tokens_per_minute} tokens a minute", retry_after_s=wait_s
                )
        self._streams += 1

    def end(self) -> None:
        """One request less."""
        self._streams -= 1

    def charge(self, tenant: Tenant, tokens: int) -> None:
        """Count tokens of a prompt or an answer."""
        if tenant.max_tokens_per_minute is not None:
            self._level_tokens = self._drained(tenant.max_tokens_per_minute) + tokens

    def _drained(self, tokens_per_minute: int) -> float:
        now_s = self._clock_s()
        drained_tokens = (now_s - self._drained_s) * tokens_per_minute / MINUTE_S
        self._level_tokens, self._drained_s = max(0.0, self._level_tokens - drained_tokens), now_s
        return self._level_tokens
