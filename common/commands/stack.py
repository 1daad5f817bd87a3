"""A gateway and its ranks on this machine, from settings to the first healthy answer."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.channel import open_channel
from common.commands.listen_address import free_address
from common.commands.up_children import draft_addresses, plan_stages, probe_address
from common.commands.up_settings import UpSettings
from common.model_store import resolve
from common.supervisor import Stage, Supervisor, supervised

PROBE_INTERVAL_S = 0.1
PROBE_TIMEOUT_S = 2.0


Plan = Callable[[UpSettings, Path, str, Path, int], list[Stage]]


class Stack(NamedTuple):
    """What runs, and where it answers."""

    supervisor: Supervisor
    address: str
    metrics_address: str = ""  # empty without metrics


@asynccontextmanager
async def running_stack(settings: UpSettings, plan: Plan = plan_stages) -> AsyncIterator[Stack]:
    """Start what `plan` makes of `settings`, yield once the gateway and all draft workers say SERVING, stop everything
    afterwards.

    Raises SettingsError, CheckpointError, and what Supervisor.while_running raises.
    """
    model = resolve(settings.model)
    address = free_address(settings.listen)
    if settings.metrics_listen:
        metrics_listen = free_address(settings.metrics_listen, "--metrics-listen")
        settings = settings.model_copy(update={"metrics_listen": metrics_listen})
    with private_folder() as folder:
        stages = plan(settings, model, address, Path(folder), len(os.sched_getaffinity(0)))
        async with supervised(stages) as supervisor:
            probe = probe_address(settings, address, Path(folder))
            for serving in (probe, *draft_addresses(settings, Path(folder))):
                await supervisor.while_running(until_serving(serving))
            yield Stack(supervisor, address, settings.metrics_listen)


def private_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a new folder only we can enter, removed on exit."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    parent = runtime if runtime and os.access(runtime, os.W_OK) else None
    return tempfile.TemporaryDirectory(prefix="tandem-", dir=parent, ignore_cleanup_errors=True)


async def until_serving(address: str) -> None:
    """Return once the server at `address` answers health checks with SERVING."""
    while True:
        # A fresh channel each time: an old one would wait longer and longer between its attempts to connect.
        async with open_channel(address) as channel:
            try:
                health = health_pb2_grpc.HealthStub(channel)
                answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=PROBE_TIMEOUT_S)
            except grpc.aio.AioRpcError:
                pass
            else:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
        await asyncio.sleep(PROBE_INTERVAL_S)
