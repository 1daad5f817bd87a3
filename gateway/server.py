"""The gateway's process: read the checkpoint's settings, listen, attach to the ranks, serve, drain, stop."""

import asyncio
import logging
import os

import grpc
from grpc_reflection.v1alpha import reflection

from common.channel import server_options
from common.errors import SettingsError
from common.health import HEALTH_SERVICE, HealthBoard
from common.manifest import read_manifest
from common.process import run_until_signalled
from common.telemetry.metrics_export import exported, is_read
from common.telemetry.setup import set_up_tracing
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
    tracer = set_up_tracing("tandem-gateway")
    prompts = PromptReader(settings.model, manifest, model)
    server = grpc.aio.server(options=server_options(settings.max_message_bytes))
    health = HealthBoard([SERVICE.full_name])
    health.add_to(server)
    target = TargetIdentity(manifest.tokenizer.sha256, arch.vocabulary_size, checkpoint_hash)
    speculator = _speculator(settings, target)
    loop = StepLoop(settings, checkpoint_hash, health, speculator, metrics, tracer)
    service = InferenceService(loop, prompts, model, manifest, checkpoint_hash)
    register(service, server, settings.write_timeout_s, metrics.calls if metrics is not None else None, tracer)
    if metrics is not None:
        watch(metrics, loop, speculator, settings.model)
    if settings.reflection:
        names = (SERVICE.full_name, HEALTH_SERVICE, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
    try:
        port = server.add_insecure_port(settings.listen)
    except RuntimeError as error:
        raise SettingsError(f"cannot listen on {settings.listen}: {error}") from error
    await prompts.start()
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
        await prompts.close()
        tracer.close()


def _speculator(settings: GatewaySettings, target: TargetIdentity) -> Speculator | None:
    """Return what drafts, or None where nothing does."""
    if settings.max_draft_tokens == 0 or not (settings.drafts or settings.ngram):
        return None
    pool = DraftPool(settings.drafts, target) if settings.drafts else None
    return Speculator(pool, settings.ngram, settings.max_draft_tokens, fixed=settings.draft_length == "fixed")
