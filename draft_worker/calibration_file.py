"""What was measured of a draft with its targets: `draft.json` beside the draft's manifest."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import CheckpointError

CALIBRATION_FILE = "draft.json"
MAX_FILE_BYTES = 1 << 20


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Measured(_Section):
    """The best factor at one temperature, and the shares of tokens the target accepted with it and with factor 1."""

    temperature: float = Field(gt=0)
    beta: float = Field(gt=0)
    acceptance: float = Field(ge=0, le=1)
    acceptance_at_1: float = Field(ge=0, le=1)


class Pair(_Section):
    """A target, by the SHA-256 of its manifest, and what was measured with it."""

    target_hash: str
    target: str
    num_tokens: int = Field(gt=0)
    measured: tuple[Measured, ...] = Field(min_length=1)


class Calibration(_Section):
    """The whole file. Factors outside the measured temperatures are those of the nearest one."""

    format: str = Field(default="tandem-draft", pattern="^tandem-draft$")
    format_version: int = Field(default=1, ge=1, le=1)
    pairs: tuple[Pair, ...] = ()

    def beta(self, target_hash: str, temperature: float) -> float:
        """Return the factor for a target at a temperature, 1 where nothing was measured."""
        for pair in self.pairs:
            if pair.target_hash == target_hash:
                return min(pair.measured, key=lambda measured: abs(measured.temperature - temperature)).beta
        return 1.0

    def with_pair(self, pair: Pair) -> "Calibration":
        """Return the same with this pair in place of an earlier one with the same target."""
        others = tuple(other for other in self.pairs if other.target_hash != pair.target_hash)
        return self.model_copy(update={"pairs": (*others, pair)})


def read_calibration(folder: Path) -> Calibration:
    """Return what is stored beside the checkpoint in `folder`; nothing measured where there is no file.

    Raises CheckpointError when the file is there and not valid.
    """
    path = folder / CALIBRATION_FILE
    if not path.exists():
        return Calibration()
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise CheckpointError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
        return Calibration.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"{path} is not a valid calibration: {' '.join(str(error).split())[:300]}") from error


def write_calibration(folder: Path, calibration: Calibration) -> Path:
    """Store a calibration beside the checkpoint in `folder`, in one piece, and return the file's path."""
    path = folder / CALIBRATION_FILE
    written = path.with_suffix(".new")
    written.write_text(calibration.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return written.replace(path)
