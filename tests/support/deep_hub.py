"""Hub folders of a hundred megabytes, made in a second: one layer again and again, in several files."""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.support.packed_int4 import edit_config

FIRST = ".layers.0."


def deepen(folder: Path, layers: int, files: int) -> int:
    """Make a model of one layer into one of `layers`, in `files` files; return the largest one's size in bytes."""
    whole = folder / "model.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    repeated = {name: tensors.pop(name) for name in list(tensors) if FIRST in name}
    placed: dict[str, str] = {}
    for i in range(files):
        path = folder / f"model-{i + 1:05}-of-{files:05}.safetensors"
        for layer in range(i * layers // files, (i + 1) * layers // files):
            # Clones, since the library refuses tensors that share memory.
            tensors |= {name.replace(FIRST, f".layers.{layer}."): part.clone() for name, part in repeated.items()}
        save_file(tensors, path)
        placed |= dict.fromkeys(tensors, path.name)
        tensors = {}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    edit_config(folder, num_hidden_layers=layers)
    largest: int = max((folder / name).stat().st_size for name in set(placed.values()))
    return largest
