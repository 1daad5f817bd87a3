"""`tandem serve shard`."""

import asyncio
import os
from pathlib import Path

import click

from common.cli.log_format import log_format_option
from common.cli.log_level import log_level_option
from common.process import set_up_logging
from common.settings_sources import resolve, settings_options
from shard_worker.settings import ShardSettings


@click.command("shard")
@settings_options(ShardSettings)
@log_level_option()
@log_format_option
def serve(config: Path | None, log_level: str, log_format: str, **flags: object) -> None:
    """Serve one rank of a tensor-parallel group.

    Flags go before environment variables (TANDEM_SHARD_RANK), those before the --config file.
    """
    settings = resolve(ShardSettings, "TANDEM_SHARD", flags, os.environ, config)
    set_up_logging(f"rank-{settings.rank}", log_level, log_format)
    # OpenMP reads it when torch is imported. Threads that spin between operators starve whoever shares the cores:
    # beside four busy processes on two cores a token of SmolLM2 took 400 ms spinning and 61 ms sleeping.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from shard_worker.server import serve as run  # torch is slow to import, and --help does not need it

    asyncio.run(run(settings))
