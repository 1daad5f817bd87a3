"""The gateway's process: read the checkpoint's settings, listen, attach to the ranks, serve, drain, stop."""

import asyncio
import logging
import os

from grpc_reflection.v1alpha import reflection

from common.errors import SettingsError
from common.health import HEALTH_SERVICE, HealthBoard
from common.listening import health_port
from common.manifest import read_manifest
from common.process import run_until_signalled
from common.telemetry.metrics_export import exported, is_read
from common.telemetry.setup import set_up_tracing
from common.whole_head import require_whole_head
from gateway.auth.access import guarded_server, worker_tls
from gateway.auth.callers import Callers
from gateway.discovery.discovery import Discovery
from gateway.limits import ModelLimits
from gateway.metrics.gateway_metrics import GatewayMetrics
from gateway.metrics.state_metrics import watch
from gateway.prompts import PromptReader
from gateway.rank_groups import FixedGroup, FoundGroups, RankGroups
from gateway.registration import SERVICE, register
from gateway.service import InferenceService
from gateway.settings import GatewaySettings
from gateway.speculation.draft_pool import DraftPool
from gateway.speculation.draft_stream import TargetIdentity
from gateway.speculation.speculator import Speculator
from gateway.step_loop import StepLoop

log = logging.getLogger(__name__)


async def serve(settings: GatewaySettings) -> None:
    """Run the gateway until it is told to stop. Health is SERVING while a rank group is attached and makes progress.

    Raises SettingsError or CheckpointError when it cannot start.
    """
    if bool(settings.ranks) == bool(settings.groups):
        raise SettingsError("either --ranks or --groups is needed")
    metrics, listen = GatewayMetrics(read_manifest(settings.model)[0].name), settings.metrics_listen
    with exported(metrics.registry, listen, "tandem-gateway", os.environ):
        await _serve(settings, metrics if is_read(listen, os.environ) else None)


async def _serve(settings: GatewaySettings, metrics: GatewayMetrics | None) -> None:
    manifest, checkpoint_hash = read_manifest(settings.model)
    require_whole_head(manifest)
    arch = manifest.architecture
    model = ModelLimits(
        name=manifest.name,
        vocabulary_size=arch.vocabulary_size,
        context_length=arch.context_length,
        max_new_tokens=min(settings.max_new_tokens, arch.context_length),
    )
    tracer = set_up_tracing("tandem-gateway")
    prompts = PromptReader(settings.model, manifest, model)
    callers = Callers(settings.tenants)
    server, port = guarded_server(settings, callers)
    health = HealthBoard([SERVICE.full_name])
    health.add_to(server)
    target = TargetIdentity(manifest.tokenizer.sha256, arch.vocabulary_size, checkpoint_hash)
    pool = _draft_pool(settings, target)
    groups, speculator = _rank_groups(settings, checkpoint_hash), _speculator(settings, pool)
    loop = StepLoop(settings, groups, health, speculator, metrics, tracer)
    health.judge_liveness(lambda: not loop.progress.stalled)
    service = InferenceService(loop, prompts, model, manifest, checkpoint_hash, callers)
    register(service, server, settings.write_timeout_s, metrics.calls if metrics is not None else None, tracer)
    if metrics is not None:
        watch(metrics, loop, speculator, settings.model)
    if settings.reflection:
        names = (SERVICE.full_name, HEALTH_SERVICE, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
    await prompts.start()
    discoveries = [
        (Discovery(targets, settings.kubernetes_api, settings.kubernetes_credentials), on_change)
        for targets, on_change in (
            (settings.groups, groups.set_endpoints if isinstance(groups, FoundGroups) else None),
            (settings.drafts, pool.set_endpoints if pool else None),
        )
        if on_change is not None
    ]
    try:
        async with health_port(settings.health_listen, health):
            await server.start()
            log.info("listening on port %d for %s", port, manifest.name)
            running = asyncio.create_task(loop.run())
            others = [asyncio.create_task(each.run(on_change)) for each, on_change in discoveries]
            try:
                await run_until_signalled(
                    server, health, drain=loop.drain, drain_budget_s=settings.drain_budget_s, failed=running
                )
            finally:
                for task in (running, *others):
                    task.cancel()
                await asyncio.wait([running, *others])
    finally:
        await prompts.close()
        tracer.close()


def _rank_groups(settings: GatewaySettings, checkpoint_hash: str) -> RankGroups:
    """Return the groups to serve with: one that is known, or those that are found. Raises SettingsError."""
    tls = worker_tls(settings, settings.rank_tls_name)
    if settings.groups:
        return FoundGroups(checkpoint_hash, settings.step_timeout_s, tls)
    return FixedGroup(settings.ranks, checkpoint_hash, settings.step_timeout_s, tls)


def _draft_pool(settings: GatewaySettings, target: TargetIdentity) -> DraftPool | None:
    """Return the draft workers, not found yet, or None where none is asked."""
    if not (settings.drafts and settings.max_draft_tokens):
        return None
    return DraftPool((), target, worker_tls(settings, settings.draft_tls_name))


def _speculator(settings: GatewaySettings, pool: DraftPool | None) -> Speculator | None:
    """Return what drafts, or None where nothing does."""
    if settings.max_draft_tokens == 0 or not (pool or settings.ngram):
        return None
    return Speculator(pool, settings.ngram, settings.max_draft_tokens, fixed=settings.draft_length == "fixed")
