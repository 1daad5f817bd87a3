"""The `--log-format` flag, the same for every service"""

import click

from common.telemetry.log_lines import JSON, TEXT

log_format_option = click.option(
    "--log-format",
    type=click.Choice([TEXT, JSON]),
    default=TEXT,
    envvar="TANDEM_LOG_FORMAT",
    show_envvar=True,
    show_default=True,
    help="log lines for people, or one JSON object a line",
)
