"""A tenant's limits, with a clock of the test's own."""

import pytest

from common.errors import QuotaExceeded
from gateway.auth.tenants import Tenant
from gateway.auth.usage import Usage


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_streams() -> None:
    usage, tenant = Usage(), Tenant("a", max_streams=2)
    usage.begin(tenant)
    usage.begin(tenant)
    with pytest.raises(QuotaExceeded, match="at most 2"):
        usage.begin(tenant)
    usage.end()
    usage.begin(tenant)
    assert usage.streams == 2


def test_tokens_drain_evenly_over_a_minute() -> None:
    clock = Clock()
    usage, tenant = Usage(clock), Tenant("a", max_tokens_per_minute=60)
    usage.begin(tenant)
    usage.charge(tenant, 59)
    usage.begin(tenant)
    usage.charge(tenant, 11)  # what runs is not cut short
    with pytest.raises(QuotaExceeded, match="60 tokens a minute") as caught:
        usage.begin(tenant)
    assert caught.value.retry_after_s == pytest.approx(11.0)
    clock.now_s += caught.value.retry_after_s - 1.5
    with pytest.raises(QuotaExceeded):
        usage.begin(tenant)
    clock.now_s += 1.5
    usage.begin(tenant)
    clock.now_s += 3600
    usage.charge(tenant, 59)  # what was not used does not add up
    usage.begin(tenant)
    usage.charge(tenant, 1)
    with pytest.raises(QuotaExceeded):
        usage.begin(tenant)
    assert usage.streams == 4, "what was refused does not count"


def test_no_limits() -> None:
    usage, tenant = Usage(), Tenant("a")
    for _ in range(1000):
        usage.charge(tenant, 1_000_000)
        usage.begin(tenant)
    assert usage.streams == 1000
