"""From settings to a proposer with a model."""

from pathlib import Path

from common.manifest import read_manifest
from draft_worker.calibration_file import read_calibration
from draft_worker.model_proposer import DRAFTING_IDS, ModelProposer
from draft_worker.proposer import About
from draft_worker.screen_file import read_screen
from draft_worker.settings import DraftSettings
from draft_worker.text import Drawing
from shard_worker.engine import Engine
from shard_worker.settings import ShardSettings


def load_model_proposer(settings: DraftSettings, folder: Path, is_screened: bool = True) -> ModelProposer:
    """Load the draft's checkpoint in `folder`, what was measured of it with its targets, and its head's screen, if any.

    Raises CheckpointError or SettingsError when that cannot be.
    """
    screen = read_screen(folder) if is_screened else None
    engine = Engine.load(
        ShardSettings(
            model=folder,
            device=settings.device,
            dtype=settings.dtype,
            threads=settings.threads,
            kv_cache_tokens=settings.kv_cache_tokens,
            block_size_tokens=settings.block_size_tokens,
            # One step never has more: rows of DRAFTING_IDS each, and a chunk of prefill.
            max_step_tokens=settings.max_step_rows * DRAFTING_IDS + settings.prefill_chunk_tokens,
            native=settings.native,
        ),
        screen,
    )
    manifest, _ = read_manifest(folder)
    info = engine.info
    about = About(
        proposer="model",
        name=manifest.name,
        vocabulary_hash=manifest.tokenizer.sha256,
        vocabulary_size=manifest.architecture.vocabulary_size,
        context_length=info.context_length,
        kv_cache_tokens=info.num_blocks * info.block_size_tokens,
    )
    calibration = read_calibration(folder)

    def beta(drawing: Drawing) -> float:
        if settings.temperature_factor is not None:
            return settings.temperature_factor
        return calibration.beta(drawing.target_hash, drawing.sampling.temperature)

    return ModelProposer(engine, about, beta, settings)
