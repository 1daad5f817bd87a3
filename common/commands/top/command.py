"""`tandem top`: tokens a second, latencies, KV cache, drafts and ranks of a running cluster, as they change."""

import dataclasses
import json
import sys
import time
from collections import deque

import click

from common.commands.top.figures import Figures, figures
from common.commands.top.scrape import Scrape, scrape
from common.commands.top.view import lines
from common.errors import Unavailable

TIMEOUT_S = 5.0
SECONDS = click.FloatRange(0.1, 3600.0)
# https://en.wikipedia.org/wiki/ANSI_escape_code#CSIsection
HOME, CLEAR_ALL, CLEAR_BELOW, CLEAR_LINE_END = "\x1b[H", "\x1b[2J", "\x1b[J", "\x1b[K"


@click.command()
@click.option(
    "--metrics",
    "addresses",
    multiple=True,
    default=("127.0.0.1:9464",),
    show_default=True,
    metavar="ADDRESS",
    help="where a gateway serves its metrics (its --metrics-listen), host:port; repeat it for several gateways",
)
@click.option("--interval", "interval_s", default=1.0, show_default=True, type=SECONDS, help="seconds between looks")
@click.option(
    "--window",
    "window_s",
    default=30.0,
    show_default=True,
    type=SECONDS,
    help="seconds that latencies, acceptance and ranks' times are taken over",
)
@click.option("--once", is_flag=True, help="show one interval and leave")
@click.option("--json", "as_json", is_flag=True, help="one JSON object an interval; times in seconds")
def top(addresses: tuple[str, ...], interval_s: float, window_s: float, once: bool, as_json: bool) -> int:
    """Watch a cluster: rates, latencies, KV cache, drafts, and each rank's steps with the straggler marked.

    In Kubernetes: kubectl port-forward deployment/RELEASE-gateway-0 9464. Ctrl-C ends it.
    """
    looks: deque[Scrape] = deque()
    live = sys.stdout.isatty() and not (once or as_json)
    try:
        looks.append(scrape(addresses, TIMEOUT_S))
        if live:
            click.echo(CLEAR_ALL, nl=False)
        while True:
            time.sleep(interval_s)
            try:
                looks.append(scrape(addresses, TIMEOUT_S))
            except Unavailable as error:
                if once:
                    raise
                click.echo(f"tandem: {error}", err=True)
                continue
            while looks[1].at_s < looks[-1].at_s - window_s:
                looks.popleft()
            show(figures(looks[-1], looks[-2], looks[0]), ", ".join(addresses), as_json, live)
            if once:
                return 0
    except Unavailable as error:
        click.echo(f"tandem: {error}", err=True)
        return 1
    except KeyboardInterrupt:
        return 0


def show(current: Figures, where: str, as_json: bool, live: bool) -> None:
    """Print the figures: over the last ones where somebody watches, else below them."""
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(current)))
    elif live:
        body = "".join(f"{line}{CLEAR_LINE_END}\n" for line in lines(current, where))
        click.echo(f"{HOME}{body}{CLEAR_BELOW}", nl=False)
    else:
        click.echo("\n".join(lines(current, where)) + "\n")
