"""The `tandem` command: which commands there are, and how every one of them ends.

Exit codes: 0 done; 1 the work failed; 2 wrong usage, settings or checkpoint (one line on stderr); 130
interrupted.
"""

import errno
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from common.cli.lazy_group import LazyCommand, LazyGroup
from common.errors import TandemError
from common.parent_death import die_with_parent_if_told

EXTRA_OF_MODULE = {
    "torch": "worker",
    "safetensors": "worker",
    "gguf": "convert",
    "huggingface_hub": "convert",
    "lm_eval": "eval",
}

COMMANDS = {
    "up": LazyCommand("common.commands.up:up", "Run a gateway and its ranks on this machine."),
    "demo": LazyCommand("common.commands.demo:demo", "Start everything, stream one answer, stop everything."),
    "serve": LazyCommand("common.cli.serve:serve", "Run one service in the foreground."),
    "generate": LazyCommand("common.commands.generate:generate", "Stream one answer from a running gateway."),
    "chat": LazyCommand("common.commands.chat:chat", "Talk to a running gateway, turn by turn."),
    "trace": LazyCommand("common.commands.trace:trace", "Draw where one answer's time went."),
    "token": LazyCommand("common.commands.token:token", "Make a token for a tenant of a gateway."),
    "perplexity": LazyCommand("common.commands.perplexity:perplexity", "Measure how well a model predicts a text."),
    "eval": LazyCommand("common.commands.eval.command:eval_command", "Evaluate a gateway by lm-evaluation-harness."),
    "models": LazyCommand("shard_worker.commands.models:models", "List known models, and which fit this machine."),
    "download": LazyCommand("shard_worker.commands.download:download", "Fetch a model into the store."),
    "convert": LazyCommand("shard_worker.commands.convert:convert", "Turn a foreign model into a checkpoint."),
    "quantize": LazyCommand("shard_worker.commands.quantize:quantize", "Make an int8 or int4 checkpoint of a model."),
    "random-init": LazyCommand(
        "shard_worker.commands.random_init:random_init", "Make a checkpoint of random weights, for speed."
    ),
    "trim-draft": LazyCommand("draft_worker.commands.trim:trim_draft", "Make a draft of frequent tokens alone."),
    "screen-draft": LazyCommand("draft_worker.commands.screen:screen_draft", "Let a draft read less of its head."),
    "calibrate-draft": LazyCommand(
        "draft_worker.commands.calibrate:calibrate_draft", "Find a draft's best temperature for a target."
    ),
    "bench": LazyCommand("common.commands.bench.command:bench", "Measure speed through the public API."),
    "bench-gpu": LazyCommand(
        "shard_worker.commands.bench_gpu:bench_gpu", "Check and measure the GPU path, beside gpt-fast."
    ),
    "top": LazyCommand("common.commands.top.command:top", "Watch a running cluster."),
    "doctor": LazyCommand("common.commands.doctor:doctor", "Check whether this machine can serve."),
}


def print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print the version and leave, where `--version` was given."""
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import version  # slow to import

    click.echo(f"tandem {version('tandem')}")
    ctx.exit()


@click.group(cls=LazyGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=print_version,
    help="Show the version.",
)
def tandem() -> None:
    """Very low latency text generation as a gRPC service."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. `arguments` are those of the process by default."""
    try:
        result = tandem.main(arguments, prog_name="tandem", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.Abort:  # click's name for KeyboardInterrupt
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except TandemError as error:
        click.echo(f"tandem: {error}", err=True)
        return 2
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        click.echo(f"tandem: {error}", err=True)
        return 1
    except ModuleNotFoundError as error:
        extra = EXTRA_OF_MODULE.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        click.echo(f"tandem: this command needs {error.name}: pip install 'tandem[{extra}]'", err=True)
        return 2


def main() -> NoReturn:
    """Entry point of the console script and of `python -m common.cli.main`."""
    die_with_parent_if_told()
    sys.exit(run())


if __name__ == "__main__":
    main()
