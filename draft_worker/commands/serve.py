"""`tandem serve draft`."""

import asyncio
import os
from pathlib import Path

import click

from common.cli.log_format import log_format_option
from common.cli.log_level import log_level_option
from common.process import set_up_logging
from common.settings_sources import resolve, settings_options
from draft_worker.settings import DraftSettings


@click.command("draft")
@settings_options(DraftSettings)
@log_level_option()
@log_format_option
def serve(config: Path | None, log_level: str, log_format: str, **flags: object) -> None:
    """Serve proposals of what comes next, for gateways to verify.

    Flags go before environment variables (TANDEM_DRAFT_MODEL), those before the --config file.
    """
    settings = resolve(DraftSettings, "TANDEM_DRAFT", flags, os.environ, config)
    set_up_logging("draft", log_level, log_format)
    # As on a rank: threads that spin between operators starve whoever shares the cores, the target perhaps.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from draft_worker.server import serve as run  # torch is slow to import, and --help does not need it

    asyncio.run(run(settings))
