"""The `--log-level` flag, the same for every command that logs."""

import click

log_level_option = click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    envvar="TANDEM_LOG_LEVEL",
    show_envvar=True,
    show_default=True,
    help="least important log lines to show on stderr",
)
