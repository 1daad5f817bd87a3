"""A rank's process: listen, load, serve, drain, stop."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable

from common.health import HealthBoard
from common.listening import failure, health_port, worker_server
from common.manifest import read_manifest
from common.process import run_until_signalled
from common.progress import Progress
from common.telemetry.metrics_export import exported, is_read
from common.telemetry.setup import set_up_tracing
from common.whole_head import require_whole_head
from shard_worker.engine import Engine
from shard_worker.metrics import RankMetrics
from shard_worker.service import ShardService
from shard_worker.settings import ShardSettings
from tandem.shard.v1 import shard_service_pb2 as pb
from tandem.shard.v1 import shard_service_pb2_grpc

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["ShardService"].full_name
log = logging.getLogger(__name__)


async def serve(settings: ShardSettings) -> None:
    """Run one rank until it is told to stop. Health is answered from the start, SERVING once the model is loaded.

    Raises SettingsError or CheckpointError when it cannot start, and what went wrong when a step failed.
    """
    metrics, listen = RankMetrics(settings.rank), settings.metrics_listen
    with exported(metrics.registry, listen, "tandem-shard", os.environ):
        await _serve(settings, metrics if is_read(listen, os.environ) else None)


async def _serve(settings: ShardSettings, metrics: RankMetrics | None) -> None:
    failed, fail = failure()
    tracer = set_up_tracing("tandem-shard", {"tandem.tp.rank": settings.rank, "tandem.tp.size": settings.tp})
    server, health = worker_server(settings.listen, SERVICE_NAME, settings)
    progress = Progress(settings.collective_timeout_s + settings.stall_timeout_s)
    health.judge_liveness(lambda: not progress.stalled)
    service = ShardService(fail, progress, metrics, tracer)
    shard_service_pb2_grpc.add_ShardServiceServicer_to_server(service, server)
    await server.start()
    log.info("rank %d of %d: loading %s", settings.rank, settings.tp, settings.model)
    loading = asyncio.create_task(_load(service, settings, health, fail))
    try:
        async with health_port(settings.health_listen, health):
            await run_until_signalled(
                server, health, drain=service.drain, drain_budget_s=settings.drain_budget_s, failed=failed
            )
    finally:
        loading.cancel()
        tracer.close()
        if not service.close():
            # Only the process can end a thread that waits in a collective for ranks that are gone.
            log.warning("the torch thread does not answer: ending without it")
            os._exit(int(sys.exception() is not None))


async def _load(
    service: ShardService, settings: ShardSettings, health: HealthBoard, fail: Callable[[BaseException], None]
) -> None:
    try:
        require_whole_head(read_manifest(settings.model)[0])
        info = (await service.load(lambda: Engine.load(settings))).info
    except Exception as error:
        fail(error)
        return
    tokens = info.num_blocks * info.block_size_tokens
    log.info("ready: %s on %s, KV cache of %d tokens", info.dtype, info.device, tokens)
    await health.set_serving(True)
