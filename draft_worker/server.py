"""A draft worker's process: listen, load, serve, drain, stop."""

import asyncio
import logging
import os
import sys

from common.health import HealthBoard
from common.listening import failure, health_port, worker_server
from common.process import run_until_signalled
from common.progress import Progress
from common.telemetry.metrics_export import exported, is_read
from common.telemetry.setup import set_up_tracing
from draft_worker.load import load_proposer
from draft_worker.metrics import DraftMetrics
from draft_worker.service import DraftService
from draft_worker.settings import DraftSettings
from tandem.draft.v1 import draft_service_pb2 as pb
from tandem.draft.v1 import draft_service_pb2_grpc

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["DraftService"].full_name
log = logging.getLogger(__name__)


async def serve(settings: DraftSettings) -> None:
    """Run one draft worker until it is told to stop. Health is answered from the start, SERVING once it can propose.

    Raises SettingsError or CheckpointError when it cannot start, and what went wrong when drafting failed.
    """
    metrics, listen = DraftMetrics(), settings.metrics_listen
    with exported(metrics.registry, listen, "tandem-draft", os.environ):
        await _serve(settings, metrics if is_read(listen, os.environ) else None)


async def _serve(settings: DraftSettings, metrics: DraftMetrics | None) -> None:
    failed, fail = failure()
    tracer = set_up_tracing("tandem-draft")
    server, health = worker_server(settings.listen, SERVICE_NAME, settings)
    progress = Progress(settings.stall_timeout_s)
    health.judge_liveness(lambda: not progress.stalled)
    service = DraftService(settings.max_requests, settings.max_count, fail, progress, metrics, tracer)
    draft_service_pb2_grpc.add_DraftServiceServicer_to_server(service, server)
    await server.start()
    loading = asyncio.create_task(_load(service, settings, health))
    try:
        async with health_port(settings.health_listen, health):
            await run_until_signalled(
                server, health, drain=service.drain, drain_budget_s=settings.drain_budget_s, failed=failed
            )
    finally:
        loading.cancel()
        tracer.close()
        if not service.close():
            log.warning("the drafting thread does not answer: ending without it")
            os._exit(int(sys.exception() is not None))


async def _load(service: DraftService, settings: DraftSettings, health: HealthBoard) -> None:
    about = await service.load(lambda: load_proposer(settings))
    name = f"{about.name}, KV cache of {about.kv_cache_tokens} tokens" if about.name else "n-grams of the text itself"
    log.info("ready: %s", name)
    await health.set_serving(True)
