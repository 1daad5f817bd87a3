"""Which model does a name, a hub id or a path mean? No torch in here."""

from dataclasses import dataclass
from pathlib import Path

from common.cli.suggest import did_you_mean
from common.errors import CheckpointError
from common.model_store import EMBEDDED_MODEL, is_stored
from shard_worker.checkpoint.catalog import KnownModel, known_models
from shard_worker.checkpoint.catalog_entries import BIN

FETCHED_FORMS = ("safetensors", BIN)


@dataclass(frozen=True)
class Wanted:
    """A model as the store names it, and where it comes from: a path or a hub id.

    Without either it is EMBEDDED_MODEL, which a package carries, or was made here and is in the store.
    """

    name: str
    path: Path | None = None
    repository: str | None = None


def wanted(name_or_path: str) -> Wanted:
    """Return what is meant: a name that is listed, a path that exists, a hub id, owner/name, or a name in the store.

    A listed model is stored under its name, a repository under its id, a file or folder under its own name. Raises
    CheckpointError where it is none of these, with the name that was perhaps meant, or where a listed model's weights
    are published in a form that is not fetched.
    """
    models = known_models()
    path = Path(name_or_path)
    if name_or_path in models and models[name_or_path].form in FETCHED_FORMS:
        return Wanted(name_or_path, repository=models[name_or_path].hub_ids[0])
    if name_or_path == EMBEDDED_MODEL or ("/" not in name_or_path and is_stored(name_or_path)):
        return Wanted(name_or_path)
    if name_or_path in models:
        raise _not_fetched(models[name_or_path])
    if path.exists():
        return Wanted(path.stem if path.is_file() else path.resolve().name, path=path)
    if "/" in name_or_path:
        return Wanted(name_or_path, repository=name_or_path)
    hint = did_you_mean(name_or_path, [EMBEDDED_MODEL, *models])
    raise CheckpointError(
        f"{name_or_path!r} is neither {EMBEDDED_MODEL!r} nor another name that `tandem models` lists, "
        f"nor a path, nor a repository id, owner/name.{hint}"
    )


def _not_fetched(model: KnownModel) -> CheckpointError:
    return CheckpointError(
        f"{model.hub_ids[0]} has no safetensors, but {model.form}: fetch them yourself, "
        "then `tandem convert FOLDER --output FOLDER`"
    )
