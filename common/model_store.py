"""Where checkpoints live on this machine, and how a model's name becomes a folder."""

import os
import re
from pathlib import Path

from common.cli.suggest import did_you_mean
from common.errors import CheckpointError
from common.manifest import MANIFEST_FILE

EMBEDDED_MODEL = "smollm2-135m-instruct"

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_NAME = re.compile(rf"{_PART}(/{_PART})?")


def store_folder() -> Path:
    """Return the store: $TANDEM_HOME, or tandem/ under $XDG_CACHE_HOME, or ~/.cache/tandem."""
    if home := os.environ.get("TANDEM_HOME"):
        return Path(home)
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "tandem"
    return Path.home() / ".cache" / "tandem"


def model_folder(name: str) -> Path:
    """Return the folder that model `name` has in the store, whether or not it is there.

    `name` is one word, or owner/name as on the Hugging Face hub. Raises CheckpointError for anything else.
    """
    if not _NAME.fullmatch(name):
        raise CheckpointError(
            f"{name!r} is not a model's name: use letters, digits, '.', '_', '-', and one '/' at most"
        )
    # The hub allows no "--" in its names, so no two names share a folder.
    return store_folder() / "models" / name.replace("/", "--")


def is_hub_id(name: str) -> bool:
    """Return whether this could be a repository's id on the Hugging Face hub, owner/name."""
    return "/" in name and bool(_NAME.fullmatch(name))


def stored_names() -> list[str]:
    """Return the names of the store's folders that are checkpoints; "owner--name" for what the hub calls owner/name."""
    folders = (path.parent.name for path in (store_folder() / "models").glob(f"*/{MANIFEST_FILE}"))
    return sorted(name for name in folders if not name.startswith("."))  # one that is being made begins with a dot


def is_stored(name: str) -> bool:
    """Return whether the store has a checkpoint of this name; of what is no name it has none."""
    return bool(_NAME.fullmatch(name)) and (model_folder(name) / MANIFEST_FILE).is_file()


def resolve(name_or_path: str | Path) -> Path:
    """Return the folder of a checkpoint: `name_or_path` itself, else the one of that name in the store.

    Raises CheckpointError, saying which command makes one, when there is none.
    """
    path = Path(name_or_path)
    if (path / MANIFEST_FILE).is_file():
        return path
    if path.is_file() or (path / "config.json").is_file():
        raise CheckpointError(f"{path} is not a checkpoint. Make one of it: `tandem convert {path} --output FOLDER`.")
    name = str(name_or_path)
    if _NAME.fullmatch(name):
        folder = model_folder(name)
        if (folder / MANIFEST_FILE).is_file():
            return folder
        if name == EMBEDDED_MODEL:
            raise CheckpointError(f"model {name} is not in {folder.parent} yet. Fetch it: `tandem download`.")
        if "/" in name:
            raise CheckpointError(
                f"there is no checkpoint at {name} nor a model of that name in {folder.parent}. "
                f"Fetch it from the Hugging Face hub: `tandem download {name}`."
            )
    hint = did_you_mean(name, [*stored_names(), EMBEDDED_MODEL])
    raise CheckpointError(
        f"there is no checkpoint at {name} nor a model of that name in {store_folder() / 'models'}.{hint} "
        f"Make one: `tandem download` fetches {EMBEDDED_MODEL} and what `tandem models` lists, `tandem convert` reads "
        "other formats."
    )
