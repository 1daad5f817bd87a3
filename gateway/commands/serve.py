"""`tandem serve gateway`."""

import asyncio
import os
from pathlib import Path

import click

from common.cli.log_format import log_format_option
from common.cli.log_level import log_level_option
from common.process import set_up_logging
from common.settings_sources import resolve, settings_options
from gateway.settings import GatewaySettings


@click.command("gateway")
@settings_options(GatewaySettings)
@log_level_option()
@log_format_option
def serve(config: Path | None, log_level: str, log_format: str, **flags: object) -> None:
    """Serve the public API in front of a rank group.

    Flags go before environment variables (TANDEM_GATEWAY_MAX_RUNNING), those before the --config file.
    """
    settings = resolve(GatewaySettings, "TANDEM_GATEWAY", flags, os.environ, config)
    set_up_logging("gateway", log_level, log_format)
    from gateway.server import serve as run  # grpc is slow to import, and --help does not need it

    asyncio.run(run(settings))
