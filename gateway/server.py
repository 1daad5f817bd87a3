"""The gateway's process: read the checkpoint's settings, listen, attach to the ranks, serve, drain, stop."""

import asyncio
import logging
import os

from grpc_reflection.v1alpha import reflection

from common.health import HEALTH_SERVICE, HealthBoard
from common.listening import health_port
from common.manifest import read_manifest
from common.process import run_until_signalled
from common.telemetry.metrics_export import exported, is_read
from gateway.auth.access import guarded_server, worker_tls
from gateway.auth.callers import Callers
from gateway.limits import ModelLimits
from gateway.metrics.gateway_metrics import GatewayMetrics
from gateway.metrics.state_metrics import watch
from gateway.prompts import PromptReader
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
    metrics, listen = GatewayMetrics(read_manifest(settings.model)[0].name), settings.metrics_listen
    with exported(metrics.registry, listen, "tandem-gateway", os.environ):
        await _serve(settings, metrics if is_read(listen, os.environ) else None)


async def _serve(settings: GatewaySettings, metrics: GatewayMetrics | None) -> None:
    manifest, checkpoint_hash = read_manifest(settings.model)
    arch = manifest.architecture
    model = ModelLimits(
        name=manifest.name,
        vocabulary_size=arch.vocabulary_size,
        context_length=arch.context_length,
        max_new_tokens=min(settings.max_new_tokens, arch.context_length),
    )
    prompts = PromptReader(settings.model, manifest, model)
    callers = Callers(settings.tenants)
    server, port = guarded_server(settings, callers)
    health = HealthBoard([SERVICE.full_name])
    health.add_to(server)
    target = TargetIdentity(manifest.tokenizer.sha256, arch.vocabulary_size, checkpoint_hash)
    speculator = _speculator(settings, target)
    rank_tls = worker_tls(settings, settings.rank_tls_name)
    loop = StepLoop(settings, checkpoint_hash, health, speculator, metrics, rank_tls)
    health.judge_liveness(lambda: not loop.progress.stalled)
    service = InferenceService(loop, prompts, model, manifest, checkpoint_hash, callers)
    register(service, server, settings.write_timeout_s, metrics.calls if metrics is not None else None)
    if metrics is not None:
        watch(metrics, loop, speculator, settings.model)
    if settings.reflection:
        names = (SERVICE.full_name, HEALTH_SERVICE, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
    await prompts.start()
    try:
        async with health_port(settings.health_listen, health):
            await server.start()
            log.info("listening on port %d for %s", port, manifest.name)
            running = asyncio.create_task(loop.run())
            try:
                await run_until_signalled(
                    server, health, drain=loop.drain, drain_budget_s=settings.drain_budget_s, failed=running
                )
            finally:
                running.cancel()
                await asyncio.wait([running])
    finally:
        await prompts.close()


def _speculator(settings: GatewaySettings, target: TargetIdentity) -> Speculator | None:
    """Return what drafts, or None where nothing does."""
    if settings.max_draft_tokens == 0 or not (settings.drafts or settings.ngram):
        return None
    tls = worker_tls(settings, settings.draft_tls_name)
    pool = DraftPool(settings.drafts, target, tls) if settings.drafts else None
    return Speculator(pool, settings.ngram, settings.max_draft_tokens, fixed=settings.draft_length == "fixed")
