"""`tandem serve ranks`"""

import asyncio
import os
from pathlib import Path

import click

from common.cli.log_format import log_format_option
from common.cli.log_level import log_level_option
from common.process import set_up_logging
from common.settings_sources import resolve, settings_options
from shard_worker.rank_host_settings import RankHostSettings


@click.command("ranks")
@settings_options(RankHostSettings)
@log_level_option()
@log_format_option
def serve(config: Path | None, log_level: str, log_format: str, **flags: object) -> int:
    """Serve one host's ranks of a tensor-parallel group: all of them, or none.

    Flags go before environment variables (TANDEM_RANKS_HOST), those before the --config file. The ranks' own settings
    come from TANDEM_SHARD_* variables and the file that TANDEM_SHARD_CONFIG names.
    """
    settings = resolve(RankHostSettings, "TANDEM_RANKS", flags, os.environ, config)
    set_up_logging("ranks", log_level, log_format)
    from shard_worker.rank_host import serve as run  # grpc is slow to import, and --help does not need it

    return asyncio.run(run(settings, os.environ))
