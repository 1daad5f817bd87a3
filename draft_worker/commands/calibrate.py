"""`tandem calibrate-draft`: find the draft temperature that a target accepts most, and store it with the draft."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from common.model_store import resolve
from shard_worker.commands.progress import ProgressBars

if TYPE_CHECKING:
    from draft_worker.calibrate import Found

DEFAULT_BETAS = (0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25)
DEFAULT_TEMPERATURES = (0.0, 0.7, 1.0)


@click.command("calibrate-draft")
@click.argument("draft")
@click.argument("target")
@click.option(
    "--temperature",
    "temperatures",
    multiple=True,
    type=click.FloatRange(0, 100),
    help=f"Temperature to measure at; give it several times for several.  [default: {DEFAULT_TEMPERATURES}]",
)
@click.option(
    "--beta",
    "betas",
    multiple=True,
    type=click.FloatRange(0, 100, min_open=True),
    help=f"Factor on it for the draft to try, as often as you like; 1 is always tried.  [default: {DEFAULT_BETAS}]",
)
@click.option(
    "--text",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="UTF-8 text like that which the models will see.  [default: Python's language reference]",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=16),
    default=4096,
    show_default=True,
    help="How much of the text to use; the shares' errors are about 0.7 % at 4,096.",
)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="bfloat16", show_default=True)
@click.option("--device", default="cpu", show_default=True, help="torch device for both models.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.option("--dry-run", is_flag=True, help="Measure and store nothing.")
def calibrate_draft(
    draft: str,
    target: str,
    temperatures: tuple[float, ...],
    betas: tuple[float, ...],
    text: Path | None,
    tokens: int,
    dtype: str,
    device: str,
    threads: int | None,
    dry_run: bool,
) -> None:
    """Measure how often TARGET draws what DRAFT proposes, and store DRAFT's best temperature factors.

    Both are names in the store or folders of checkpoints. A draft worker finds the factors in draft.json beside DRAFT's
    weights and uses those of the target that its gateway serves. They change speed, never a token.
    """
    folders = resolve(draft), resolve(target)
    # Imported here since they bring torch, which `--help` does without.
    import torch

    from draft_worker.calibrate import Options, calibrate
    from draft_worker.calibration_file import read_calibration, write_calibration
    from shard_worker.device import usable_device

    if threads is not None:
        torch.set_num_threads(threads)
    options = Options(
        temperatures=tuple(sorted(set(temperatures or DEFAULT_TEMPERATURES))),
        betas=tuple(sorted({1.0, *(betas or DEFAULT_BETAS)})),
        text=text,
        num_tokens=tokens,
        dtype=torch.float32 if dtype == "float32" else torch.bfloat16,
        device=usable_device(device),
    )
    calibration = read_calibration(folders[0])
    with ProgressBars() as progress:
        found = calibrate(*folders, options, progress)
    click.echo("\n".join(_table(found, options.betas)))
    if found.pair is not None and not dry_run:
        click.echo(f"stored: {write_calibration(folders[0], calibration.with_pair(found.pair))}")


def _table(found: "Found", betas: tuple[float, ...]) -> list[str]:
    """Return the shares of tokens accepted, in percent: a line a temperature, a column a factor."""
    heads = [*(f"beta {beta:g}" for beta in betas), "greedy", "optimum"]
    lines = [" ".join(["   T", *(f"{head:>9}" for head in heads)])]
    for temperature, counts in found.counts.items():
        shares = [count / counts.positions for count in (*counts.accepted_B, counts.greedy, counts.optimum)]
        lines.append(" ".join([f"{temperature:4.2f}", *(f"{100 * share:9.1f}" for share in shares)]))
    lines.append(
        "greedy: the draft proposes its most likely token. optimum: sum of min(p, q), beta 1, that none can beat."
    )
    return lines
