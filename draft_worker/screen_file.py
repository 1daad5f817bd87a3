"""A head screen's file: `screen.safetensors` beside the draft's manifest."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from common.errors import CheckpointError
from common.manifest import read_manifest
from shard_worker.model.head_screen import HeadScreen
from shard_worker.model.linear import FloatLinear, Int8Linear
from shard_worker.native.packing import PANEL_ROWS

SCREEN_FILE = "screen.safetensors"
FORMAT, FORMAT_VERSION = "tandem-screen", "1"


def write_screen(folder: Path, screen: HeadScreen, checkpoint_hash: str) -> Path:
    """Store the screen of the checkpoint with this hash in `folder`, in one piece, and return the file's path."""
    path = folder / SCREEN_FILE
    written = path.with_suffix(".new")
    about = {"checkpoint": checkpoint_hash, "num_panels": str(screen.num_panels)}
    tensors = {"down": screen.down.weight, "up.q": screen.up.q, "up.scale": screen.up.scale}
    about |= {"format": FORMAT, "format_version": FORMAT_VERSION}
    written.write_bytes(save({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, about))
    return written.replace(path)


def read_screen(folder: Path) -> HeadScreen | None:
    """Return the screen beside the checkpoint in `folder`, None where there is none.

    Raises CheckpointError when it is not valid, or was made for other weights.
    """
    path = folder / SCREEN_FILE
    if not path.exists():
        return None
    manifest, checkpoint_hash = read_manifest(folder)
    arch = manifest.architecture
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if (about.get("format"), about.get("format_version")) != (FORMAT, FORMAT_VERSION):
                raise CheckpointError(f"{path} is not a head screen of version {FORMAT_VERSION}")
            if about.get("checkpoint") != checkpoint_hash:
                raise CheckpointError(f"{path} was made for other weights: make it anew by `tandem screen-draft`")
            rank = file.get_slice("down").get_shape()[0]
            count, panels = about.get("num_panels", ""), -(-arch.vocabulary_size // PANEL_ROWS)
            is_count = count.isdecimal() and len(count) < 10
            if arch.head_size is not None or rank < 1 or not is_count or not 0 < int(count) < panels:
                raise CheckpointError(f"{path} does not fit {manifest.name}")
            down_rK = _tensor(file.get_tensor("down"), (rank, arch.hidden_size), torch.bfloat16)
            q_Vr = _tensor(file.get_tensor("up.q"), (arch.vocabulary_size, rank), torch.int8)
            scale_V = _tensor(file.get_tensor("up.scale"), (arch.vocabulary_size,), torch.float32)
    except (SafetensorError, OSError, ValueError, IndexError) as error:
        raise CheckpointError(f"{path} is not a valid head screen: {error}") from error
    return HeadScreen(FloatLinear(down_rK), Int8Linear(q_Vr, scale_V), int(count))


def _tensor(tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return it. Raises ValueError unless it is such a tensor."""
    if tensor.shape != shape or tensor.dtype != dtype:
        raise ValueError(f"{dtype}{list(tensor.shape)} where {dtype}{list(shape)} should be")
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        raise ValueError("a number that is not finite")
    return tensor
