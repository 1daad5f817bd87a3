"""`tandem serve`: the services that run in the foreground, one process each."""

import click

from common.cli.lazy_group import LazyCommand, LazyGroup

SERVICES = {
    "gateway": LazyCommand("gateway.commands.serve:serve", "Serve the public API in front of a rank group."),
    "shard": LazyCommand("shard_worker.commands.serve:serve", "Serve one rank of a tensor-parallel group."),
    "ranks": LazyCommand("shard_worker.commands.serve_ranks:serve", "Serve one host's ranks of a group, together."),
    "draft": LazyCommand("draft_worker.commands.serve:serve", "Serve proposals of what comes next."),
}


@click.group(cls=LazyGroup, table=SERVICES)
def serve() -> None:
    """Run one service in the foreground."""
