"""May a checkpoint be served? One with a trimmed head can only draft."""

from common.errors import CheckpointError
from common.manifest import Manifest


def require_whole_head(manifest: Manifest) -> None:
    """Raise CheckpointError where the model can only draft, since it knows of some tokens alone."""
    if (size := manifest.architecture.head_size) is not None:
        raise CheckpointError(
            f"{manifest.name} can only draft: its head was trimmed to {size} of "
            f"{manifest.architecture.vocabulary_size} tokens. Serve the model that it was made of."
        )
