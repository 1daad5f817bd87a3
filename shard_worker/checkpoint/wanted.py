"""Which model does a name, a hub id or a path mean? No torch in here."""

from dataclasses import dataclass
from pathlib import Path

from common.cli.suggest import did_you_mean
from common.errors import CheckpointError
from common.model_store import EMBEDDED_MODEL, is_hub_id, is_stored
from shard_worker.checkpoint.catalog import known_models


@dataclass(frozen=True)
class Wanted:
    """A model as the store names it, and where it comes from: a path, or a hub id, all of it or one file.

    Without these it is EMBEDDED_MODEL, which a package carries, or was made here and is in the store.
    """

    name: str
    path: Path | None = None
    repository: str | None = None
    file: str | None = None


def wanted(name_or_path: str) -> Wanted:
    """Return what is meant: a name that is listed, a path that exists, a hub id, owner/name, or a name in the store.

    Capitals do not count in listed names, unless there is a path written so. A listed model is stored under its name, a
    repository under its id, a file or folder under its own name. Raises CheckpointError where it is none of these, with
    the name that was perhaps meant.
    """
    models = known_models()
    path = Path(name_or_path)
    stored = "/" not in name_or_path and is_stored(name_or_path)
    if stored and name_or_path not in models:
        return Wanted(name_or_path)
    listed = name_or_path if path.exists() else name_or_path.lower()
    if listed == EMBEDDED_MODEL:
        return Wanted(listed)
    if listed in models:
        return Wanted(listed, repository=models[listed].hub_ids[0], file=models[listed].file)
    if name_or_path and path.exists():  # the path of no letters is the working directory
        return Wanted(path.stem if path.is_file() else path.resolve().name, path=path)
    if several := [name for name, model in models.items() if model.file and name_or_path in model.hub_ids]:
        raise CheckpointError(f"{name_or_path} holds several models; name one of {', '.join(several)}")
    if is_hub_id(name_or_path):
        return Wanted(name_or_path, repository=name_or_path)
    if "/" in name_or_path:
        raise CheckpointError(f"there is nothing at {name_or_path}, and it is no repository id, owner/name, either")
    hint = did_you_mean(name_or_path, [EMBEDDED_MODEL, *models])
    raise CheckpointError(
        f"{name_or_path!r} is neither {EMBEDDED_MODEL!r} nor another name that `tandem models` lists, "
        f"nor a path, nor a repository id, owner/name.{hint}"
    )
