"""Which ids end a text, where no config.json says so?"""

from pathlib import Path

from common.errors import CheckpointError
from shard_worker.checkpoint.huggingface_config import read_json
from shard_worker.checkpoint.source import TokenizerSource


def tokenizers_own_ends(folder: Path, tokenizer: TokenizerSource) -> tuple[int, ...]:
    """Return eos_token_id of a generation_config.json in `folder`, else the ends that the tokenizer itself names.

    Raises CheckpointError when neither says one.
    """
    stated = (read_json(folder / "generation_config.json") or {}).get("eos_token_id")
    ids = stated if isinstance(stated, list) else [] if stated is None else [stated]
    if not all(isinstance(id, int) for id in ids):
        raise CheckpointError(f"{folder}: eos_token_id {ids} is not a list of token ids")
    if not (ids := ids or list(tokenizer.end_ids)):
        raise CheckpointError(f"{folder}: nothing says which token ends a text; a generation_config.json does")
    return tuple(dict.fromkeys(ids))
