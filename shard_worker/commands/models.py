"""`tandem models`: which models are known, how large they are, and which fit this machine."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import click

from common.cli.suggest import did_you_mean
from common.machine_memory import Machine, this_machine
from common.model_store import store_folder
from shard_worker.checkpoint.catalog import KnownModel, known_models
from shard_worker.checkpoint.model_list import TENSOR_PARALLEL, FormatSize, ListedModel, list_models, other_stored

DEFAULT_CONTEXT_TOKENS = 4096
HEADER = f"{'model':<24}{'parameters':>11}  {'form':<5}{'on disk':>9}" + "".join(
    f"{f'TP {tp}':>8}" for tp in TENSOR_PARALLEL
)


@click.command()
@click.argument("names", nargs=-1)
@click.option(
    "--context",
    type=click.IntRange(min=1),
    default=DEFAULT_CONTEXT_TOKENS,
    show_default=True,
    help="tokens of the one text whose KV cache is counted; at most the model's own context",
)
@click.option("--fitting", is_flag=True, help="only models that fit this machine in some format")
@click.option("--json", "as_json", is_flag=True, help="one JSON object, sizes in bytes")
def models(names: tuple[str, ...], context: int, fitting: bool, as_json: bool) -> None:
    """List known models, or those whose names or hub ids contain one of NAMES.

    Sizes are GB (10^9 bytes). On disk: a checkpoint as `tandem download` (bf16) and `tandem quantize` (int8, int4) make
    it. Under TP 1 to 8: what the fullest of so many ranks holds of weights and KV cache, in bfloat16. A star marks what
    fits this machine: its GPUs where it has any, one for each rank, else its free main memory.
    """
    chosen = _choose(names)
    machine = this_machine()
    listed = list_models(chosen, machine, context)
    if fitting:
        listed = [model for model in listed if any(size.fits for size in model.sizes)]
    if as_json:
        click.echo(json.dumps(_report(listed, machine, context), indent=2))
        return
    for line in _lines(listed, machine, context, show_others=not names):
        click.echo(line)


def _choose(names: Sequence[str]) -> list[KnownModel]:
    everything = known_models()
    if not names:
        return list(everything.values())
    chosen: dict[str, KnownModel] = {}
    for name in names:
        found = {
            key: model
            for key, model in everything.items()
            if any(name.lower() in text.lower() for text in (key, *model.hub_ids))
        }
        if not found:
            raise click.UsageError(f"no known model is called {name!r}.{did_you_mean(name, everything)}")
        chosen |= found
    return list(chosen.values())


def _report(listed: Sequence[ListedModel], machine: Machine, context: int) -> dict[str, object]:
    return {
        "machine": asdict(machine),
        "context_tokens": context,
        "models": [asdict(model) for model in listed],
        "other_stored": other_stored(listed) if len(listed) == len(known_models()) else [],
        "store": str(store_folder()),
    }


def _lines(listed: Sequence[ListedModel], machine: Machine, context: int, show_others: bool) -> Iterator[str]:
    yield _describe(machine)
    yield f"GB of the fullest rank, with the KV cache of {context} tokens; * fits"
    yield ""
    yield HEADER
    for model in listed:
        yield from _model_lines(model)
    others = other_stored(listed) if show_others else []
    if others:
        yield ""
        yield f"also in {store_folder()}: {', '.join(others)}"


def _model_lines(model: ListedModel) -> Iterator[str]:
    notes = [f"  {'also ' if index else ''}{hub_id}" for index, hub_id in enumerate(model.hub_ids)]
    if model.stored:
        notes.append(f"  stored: {', '.join(model.stored)}")
    for index, size in enumerate(model.sizes):
        first = f"{model.name:<24}{_count(model.parameters):>11}" if index == 0 else " " * 35
        cells = "".join(_cell(size, tp) for tp in TENSOR_PARALLEL)
        yield f"{first}  {size.form:<5}{_gb(size.stored_bytes):>9}{cells}".rstrip()
    yield from notes


def _cell(size: FormatSize, tp: int) -> str:
    if tp not in size.ranks:
        return f"{'-':>7} "
    return f"{_gb(size.ranks[tp].total_bytes):>7}{'*' if tp in size.fits else ' '}"


def _describe(machine: Machine) -> str:
    if machine.gpu_bytes:
        return f"this machine: {len(machine.gpu_bytes)} GPU(s), {', '.join(_gb(size) for size in machine.gpu_bytes)} GB"
    if machine.main_bytes is None:
        return "this machine: memory unknown, no GPU"
    return f"this machine: {_gb(machine.main_bytes)} GB of main memory free, no GPU"


def _gb(size_bytes: int) -> str:
    gigabytes = size_bytes / 1e9
    return f"{gigabytes:.2f}" if gigabytes < 10 else f"{gigabytes:.1f}"


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:.1f} M"
