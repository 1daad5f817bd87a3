"""One host's ranks of a group: started together, and ended together with those of the other hosts"""

import asyncio
import logging
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.channel import open_channel
from common.errors import SettingsError, Unavailable
from common.listening import refuse_plaintext_port
from common.settings_sources import resolve
from common.supervisor import ChildEnded, Stage, Stopped, supervised
from common.supervisor_child import ChildCommand
from common.tls import ClientTls, TlsFiles
from shard_worker.rank_host_settings import RankHostSettings
from shard_worker.settings import ShardSettings

STOP_MARGIN_S = 5.0
RESOLVE_PAUSE_S = 1.0
SERVING = health_pb2.HealthCheckResponse.SERVING

log = logging.getLogger(__name__)


async def serve(settings: RankHostSettings, environ: Mapping[str, str]) -> int:
    """Run this host's ranks until a signal comes (exit code 0), a rank ends or another host is lost (1).

    A group whose host was lost is of no more use, and nobody may join it again: every host ends its ranks, and whoever
    restarts the hosts makes a new group. Raises SettingsError when the ranks could not start with what is set.
    """
    with tempfile.TemporaryDirectory(prefix="tandem-", ignore_cleanup_errors=True) as folder:
        stage = plan_ranks(settings, environ, Path(folder))
        await _names_resolve(settings)
        try:
            async with supervised([stage]) as supervisor:
                await supervisor.while_running(_watch_other_hosts(settings, _tls(settings, environ)))
        except Stopped:
            log.info("stopped")
            return 0
        except (ChildEnded, Unavailable) as error:
            log.error("%s", error)
            return 1
    raise AssertionError("nothing else ends it")


def plan_ranks(settings: RankHostSettings, environ: Mapping[str, str], folder: Path) -> Stage:
    """Return the stage of this host's ranks. `folder` is where ranks of a single host meet; it must be private.

    Raises SettingsError when a rank would refuse its settings.
    """
    if settings.host >= len(settings.hosts):
        raise SettingsError(f"--host {settings.host}: there are {len(settings.hosts)} hosts, counted from 0")
    if settings.port + settings.ranks_per_host - 1 > 65535:
        raise SettingsError(f"--port {settings.port}: {settings.ranks_per_host} ranks do not fit below port 65535")
    single = len(settings.hosts) == 1
    commands, drain_budget_s = [], 0.0
    for local in range(settings.ranks_per_host):
        rank = settings.host * settings.ranks_per_host + local
        flags: dict[str, object] = {
            "rank": rank,
            "tp": len(settings.hosts) * settings.ranks_per_host,
            "listen": f"{settings.bind}:{settings.port + local}",
            "device": f"cuda:{local}" if settings.device == "cuda" else "cpu",
            "rendezvous": f"file://{folder}/rendezvous"
            if single
            else f"tcp://{settings.hosts[0]}:{settings.rendezvous_port}",
        }
        if settings.metrics_port is not None:
            flags["metrics_listen"] = f"{settings.bind}:{settings.metrics_port + local}"
        if settings.health_port is not None and local == 0:
            flags["health_listen"] = f"{settings.bind}:{settings.health_port}"
        rank_settings = resolve(ShardSettings, "TANDEM_SHARD", flags, environ)
        try:
            refuse_plaintext_port(rank_settings.listen, rank_settings)
        except SettingsError as error:
            raise SettingsError(f"{error} (ranks take these as TANDEM_SHARD_*, or from its settings file)") from error
        drain_budget_s = rank_settings.drain_budget_s
        line = [sys.executable, "-m", "common.cli.main", "serve", "shard"]
        line += [part for name, value in flags.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        commands.append(ChildCommand(f"rank {rank}", tuple(line)))
    return Stage(commands, drain_budget_s + STOP_MARGIN_S)


def _tls(settings: RankHostSettings, environ: Mapping[str, str]) -> ClientTls | None:
    """Return how the ranks of this host would speak to those of another; None in plaintext."""
    rank = resolve(ShardSettings, "TANDEM_SHARD", {}, environ)
    files = TlsFiles(rank.tls_cert, rank.tls_key, rank.tls_ca)
    return ClientTls(files, settings.tls_name) if rank.tls_cert is not None else None


async def _names_resolve(settings: RankHostSettings) -> None:
    """Return once every host's name is in the DNS: a new pod's name comes late, and torch would not wait for it.

    Raises SettingsError when one does not come in time.
    """
    loop = asyncio.get_running_loop()
    until_s = loop.time() + settings.resolve_timeout_s
    for host in settings.hosts if len(settings.hosts) > 1 else ():
        while True:
            try:
                await loop.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM)
                break
            except OSError as error:
                if loop.time() >= until_s:
                    raise SettingsError(f"host {host} of the group is not in the DNS: {error}") from error
            await asyncio.sleep(RESOLVE_PAUSE_S)


async def _watch_other_hosts(settings: RankHostSettings, tls: ClientTls | None) -> None:
    """Once our own group is formed, raise Unavailable as soon as another host's ranks no longer serve."""
    # The certificate is for the host's name, where it has one.
    own = settings.hosts[settings.host] if tls is not None and len(settings.hosts) > 1 else settings.bind
    await _until_serving("127.0.0.1" if own == "0.0.0.0" else own, settings.port, tls)
    others = [name for number, name in enumerate(settings.hosts) if number != settings.host]
    if not others:
        await asyncio.Event().wait()
    log.info("watching the other hosts of the group: %s", ", ".join(others))
    watches = [asyncio.create_task(_watch(name, settings.port, tls)) for name in others]
    try:
        ended, _ = await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
        ended.pop().result()
    finally:
        for watch in watches:
            watch.cancel()
        await asyncio.wait(watches)


async def _watch(host: str, port: int, tls: ClientTls | None) -> NoReturn:
    """Raise Unavailable when the host's first rank is gone, or stops serving after it did."""
    served = False
    async with open_channel(f"{host}:{port}", tls=tls) as channel:
        try:
            async for answer in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()):
                if served and answer.status != SERVING:
                    break
                served = answer.status == SERVING
        except grpc.aio.AioRpcError as error:
            raise Unavailable(f"host {host} of the group was lost: {error.details()}") from error
    raise Unavailable(f"host {host} of the group stops serving")


async def _until_serving(host: str, port: int, tls: ClientTls | None) -> None:
    """Return once the server says SERVING, however often it has to be asked."""
    while True:
        async with open_channel(f"{host}:{port}", tls=tls) as channel:
            try:
                async for answer in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()):
                    if answer.status == SERVING:
                        return
            except grpc.aio.AioRpcError:
                await asyncio.sleep(RESOLVE_PAUSE_S)
