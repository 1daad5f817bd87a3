"""Calibrating a draft for a target: the draft temperature that the target accepts most, at each temperature."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

import torch

from common.errors import CheckpointError
from common.manifest import Manifest
from common.whole_head import require_whole_head
from draft_worker.acceptance import Counts, count_accepted
from draft_worker.calibration_file import Measured, Pair
from draft_worker.text_logits import TextModel
from shard_worker.checkpoint.source import TokenizerSource
from shard_worker.quantization.calibration import calibration_ids, calibration_text

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """What to measure: at which temperatures, which factors, on how much of which text, and where."""

    temperatures: tuple[float, ...]
    betas: tuple[float, ...]
    text: Path | None
    num_tokens: int
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class Found:
    """What was counted at each temperature, and what of it is worth storing: nothing of temperature 0 alone."""

    counts: dict[float, Counts]
    pair: Pair | None


@torch.inference_mode()
def calibrate(draft: Path, target: Path, options: Options, progress: Progress) -> Found:
    """Measure on text. Both models read the same ids, and each position counts once.

    Raises CheckpointError when a checkpoint or the text cannot be used, or the vocabularies differ.
    """
    length = min(512, options.num_tokens)
    models = [TextModel(folder, options.dtype, options.device, length) for folder in (draft, target)]
    manifest = models[1].manifest
    require_whole_head(manifest)
    if _vocabulary(models[0].manifest) != _vocabulary(manifest):
        raise CheckpointError(f"{draft} and {target} have different vocabularies: the one cannot draft for the other")
    context_length = min(length, *(model.manifest.architecture.context_length for model in models))
    ids_Sn = calibration_ids(
        calibration_text(options.text), _tokenizer(target, manifest), options.num_tokens, context_length
    )
    counts: dict[float, list[Counts]] = {temperature: [] for temperature in options.temperatures}
    for seed, ids_n in enumerate(ids_Sn):
        progress("comparing tokens", seed * ids_Sn.shape[1], ids_Sn.numel())
        position = 1  # of the token that is drawn after the first id
        for draft_PV, target_PV in zip(*(model.logits(ids_n) for model in models), strict=True):
            for temperature, counted in counts.items():
                counted.append(count_accepted(draft_PV, target_PV, temperature, options.betas, seed, position))
            position += len(draft_PV)
    progress("comparing tokens", ids_Sn.numel(), ids_Sn.numel())
    totals = {temperature: reduce(add, counted) for temperature, counted in counts.items()}
    measured = tuple(_measured(t, options.betas, total) for t, total in totals.items() if t > 0)
    if not measured:
        return Found(totals, None)
    stored = Pair(target_hash=models[1].hash, target=manifest.name, num_tokens=ids_Sn.numel(), measured=measured)
    return Found(totals, stored)


def best_beta(betas: Sequence[float], counts: Counts) -> float:
    """Return the factor with the most accepted tokens; of equal ones the nearest to 1."""
    return min(zip(betas, counts.accepted_B, strict=True), key=lambda pair: (-pair[1], abs(pair[0] - 1)))[0]


def _measured(temperature: float, betas: Sequence[float], counts: Counts) -> Measured:
    best, shares = best_beta(betas, counts), dict(zip(betas, counts.accepted_B, strict=True))
    return Measured(
        temperature=temperature,
        beta=best,
        acceptance=shares[best] / counts.positions,
        acceptance_at_1=shares[1.0] / counts.positions,
    )


def _vocabulary(manifest: Manifest) -> tuple[str, int]:
    return manifest.tokenizer.sha256, manifest.architecture.vocabulary_size


def _tokenizer(folder: Path, manifest: Manifest) -> TokenizerSource:
    try:
        data = (folder / manifest.tokenizer.file).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    return TokenizerSource(manifest.tokenizer.kind, data, manifest.tokenizer.bos_id)
