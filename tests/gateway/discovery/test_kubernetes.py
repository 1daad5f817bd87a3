"""EndpointSlices, listed and watched at an API server that ends watches, forgets versions and goes away."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from common.errors import Unavailable
from gateway.discovery.endpoint import Endpoint, Endpoints
from gateway.discovery.endpoint_slices import EndpointSlices
from gateway.discovery.kubernetes import KubernetesSource
from gateway.discovery.kubernetes_api import KubernetesApi
from tests.support.fake_kubernetes import NAMESPACE, FakeKubernetes, pod
from tests.support.fake_loop import until


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeKubernetes]:
    with FakeKubernetes(tmp_path) as running:
        yield running


@asynccontextmanager
async def watching(api: FakeKubernetes, service: str = "drafts", port: str = "grpc") -> AsyncIterator[list[Endpoints]]:
    """Yield all that a source tells, in order."""
    told: list[Endpoints] = []
    source = KubernetesSource(api.url, api.credentials, NAMESPACE, service, port)
    task = asyncio.create_task(source.run(told.append))
    try:
        yield told
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])


@asynccontextmanager
async def watching_one(api: FakeKubernetes) -> AsyncIterator[list[Endpoints]]:
    """The same, once it has listed a first pod and watches."""
    api.set("drafts", pods(1))
    async with watching(api) as told:
        await until(lambda: "watch from 101" in api.requests)
        yield told


def endpoint(number: int, takes_work: bool = True) -> Endpoint:
    return Endpoint(f"10.0.0.{number}:80", f"pod-{number}", takes_work)


def pods(*numbers: int, **conditions: bool) -> list[dict[str, Any]]:
    return [pod(f"pod-{number}", f"10.0.0.{number}", **conditions) for number in numbers]


def test_changes_are_told_in_order_and_other_services_are_not(api: FakeKubernetes) -> None:
    async def test() -> None:
        api.set("drafts", pods(1))
        async with watching(api) as told:
            await until(lambda: told == [(endpoint(1),)])
            api.set("others", pods(9))
            api.set("drafts", [*pods(1), *pods(2, ready=False)])
            await until(lambda: told[-1] == (endpoint(1), endpoint(2, False)))
            api.set("drafts", pods(1, 2))
            await until(lambda: told[-1] == (endpoint(1), endpoint(2)))
            api.set("drafts", [*pods(1, terminating=True), *pods(2)])
            await until(lambda: told[-1] == (endpoint(1, False), endpoint(2)))
            api.set("drafts", [])
            await until(lambda: told[-1] == ())
            assert len(told) == 5

    asyncio.run(test())


def test_a_service_that_is_not_there_yet_has_no_endpoints(api: FakeKubernetes) -> None:
    async def test() -> None:
        async with watching(api) as told:
            await until(lambda: told == [()])
            api.set("drafts", pods(1))
            await until(lambda: told[-1] == (endpoint(1),))

    asyncio.run(test())


def test_a_watch_that_ends_goes_on_from_the_last_bookmark(api: FakeKubernetes) -> None:
    async def test() -> None:
        async with watching_one(api) as told:
            api.bookmark()
            api.end_watches()
            await until(lambda: "watch from 102" in api.requests)
            api.set("drafts", pods(1, 2))
            await until(lambda: told[-1] == (endpoint(1), endpoint(2)))
        assert api.requests.count("list") == 1

    asyncio.run(test())


def test_a_version_that_is_gone_is_listed_anew(api: FakeKubernetes) -> None:
    async def test() -> None:
        async with watching_one(api) as told:
            api.is_down = True
            api.end_watches()
            api.set("drafts", pods(3))
            api.forget_history()
            api.is_down = False
            await until(lambda: told[-1] == (endpoint(3),))
        assert api.requests.count("list") == 2

    asyncio.run(test())


def test_what_was_told_holds_while_the_server_is_away(api: FakeKubernetes, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with watching_one(api) as told:
            api.is_down = True
            api.end_watches()
            await until(lambda: "503" in caplog.text)
            assert told == [(endpoint(1),)]
            api.set("drafts", pods(1, 2))
            api.is_down = False
            await until(lambda: told[-1] == (endpoint(1), endpoint(2)))

    asyncio.run(test())


def test_without_a_right_to_it_the_reason_is_told_once(api: FakeKubernetes, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        (api.credentials / "token").write_text("old")
        api.set("drafts", pods(1))
        async with watching(api) as told:
            await until(lambda: "401" in caplog.text)
            (api.credentials / "token").write_text("t0ken")  # the kubelet has renewed it
            await until(lambda: told == [(endpoint(1),)])
        assert caplog.text.count("may the service account list and watch?") == 1 and "old" not in caplog.text

    asyncio.run(test())


def test_no_authority_no_connection(tmp_path: Path) -> None:
    for text in (None, "none"):
        if text is not None:
            (tmp_path / "ca.crt").write_text(text)
        with pytest.raises(Unavailable, match=r"ca\.crt cannot be used"):
            KubernetesApi("https://kubernetes.default.svc", tmp_path)


def test_one_pod_in_several_slices_is_one_endpoint() -> None:
    slices = EndpointSlices("50070")
    both = {"endpoints": pods(1, 2)}
    slices.replace(
        [
            {"metadata": {"name": "b"}, "addressType": "IPv6", "endpoints": [pod("pod-1", "fd00::1")]},
            {"metadata": {"name": "a"}, "addressType": "IPv4", **both},
            {"metadata": {"name": "c"}, "addressType": "IPv4", "endpoints": pods(2, terminating=True)},
        ]
    )
    assert slices.endpoints() == (
        Endpoint("10.0.0.1:50070", "pod-1"),
        Endpoint("10.0.0.2:50070", "pod-2", False),
    )


@pytest.mark.parametrize(
    "conditions, takes_work",
    [
        ({}, True),
        ({"ready": False}, False),
        ({"ready": True, "serving": False}, False),
        ({"ready": None, "serving": None, "terminating": None}, True),
        ({"ready": False, "serving": True, "terminating": True}, False),
    ],
)
def test_conditions(conditions: dict[str, bool | None], takes_work: bool) -> None:
    slices = EndpointSlices("1")
    slices.replace([{"metadata": {"name": "a"}, "endpoints": [{"addresses": ["::1"], "conditions": conditions}]}])
    assert slices.endpoints() == (Endpoint("[::1]:1", "", takes_work),)


@pytest.mark.parametrize("item", [{}, {"endpoints": None}, {"endpoints": [{}]}, {"endpoints": [None, 3]}])
def test_slices_without_contents_have_no_endpoints(item: dict[str, Any]) -> None:
    slices = EndpointSlices("grpc")
    slices.replace([item | {"ports": [{"name": "grpc", "port": 1}]}, {"endpoints": pods(1), "ports": None}])
    assert slices.endpoints() == ()
