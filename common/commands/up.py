"""`tandem up`: a gateway, its ranks and draft workers on this machine, until Ctrl-C."""

import asyncio
import logging
import os
from pathlib import Path

import click

from common.cli.log_format import log_format_option
from common.cli.log_level import log_level_option
from common.commands.stack import Plan, running_stack
from common.commands.up_children import plan_stages
from common.commands.up_settings import UpSettings
from common.process import set_up_logging
from common.settings_sources import resolve, settings_options
from common.supervisor import ChildEnded, Stopped

log = logging.getLogger(__name__)


@click.command()
@settings_options(UpSettings)
@log_level_option()
@log_format_option
def up(config: Path | None, log_level: str, log_format: str, **flags: object) -> int:
    """Run a gateway, its ranks and draft workers on this machine.

    Prints one line, READY host:port, on stdout once it serves; logs go to stderr, and so does the address of the
    metrics, METRICS host:port, with --metrics-listen. Ctrl-C lets running answers finish; a second Ctrl-C does not.
    Ranks and draft workers that end by themselves are started again, and answers go on where they were. Environment
    variables begin with TANDEM_UP_.
    """
    settings = resolve(UpSettings, "TANDEM_UP", flags, os.environ, config)
    set_up_logging("up", log_level, log_format)
    return asyncio.run(serve(settings))


async def serve(settings: UpSettings, plan: Plan = plan_stages) -> int:
    """Run until a signal comes (exit code 0), or a child ends that cannot be started again (1)."""
    try:
        async with running_stack(settings, plan) as stack:
            if stack.metrics_address:
                click.echo(f"METRICS {stack.metrics_address}", err=True)
            click.echo(f"READY {stack.address}")
            await stack.supervisor.while_running(asyncio.Event().wait(), restarting=True)
    except Stopped:
        log.info("stopped")
        return 0
    except ChildEnded as error:
        log.error("%s", error)
        return 1
    raise AssertionError("nothing else ends it")
