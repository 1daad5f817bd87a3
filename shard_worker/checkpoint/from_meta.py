"""Meta's consolidated shards, or gpt-fast's model.pth, as a source of a checkpoint."""

import re
from collections.abc import Sequence
from pathlib import Path

from common.errors import CheckpointError
from common.manifest import Architecture
from shard_worker.checkpoint.huggingface_base import HuggingFaceConfig
from shard_worker.checkpoint.huggingface_config import parse_config, read_json
from shard_worker.checkpoint.huggingface_tokenizer import read_chat_template, read_end_of_text_ids, read_tokenizer
from shard_worker.checkpoint.meta_names import EMBEDDING
from shard_worker.checkpoint.meta_params import MetaParams, parse_params, read_training_arguments
from shard_worker.checkpoint.meta_tensors import MetaTensors, Shard
from shard_worker.checkpoint.safetensors_header import read_header
from shard_worker.checkpoint.source import ForeignModel
from shard_worker.checkpoint.text_ends import tokenizers_own_ends
from shard_worker.checkpoint.torch_file import Unpickle

CONFIG_FILES = ("config.json", "params.json")
SHARD_NAME = re.compile(r"consolidated\.(\d\d)\.pth")


def consolidated_shards(folder: Path) -> list[Path]:
    """Return Meta's shards in `folder`, in the order of ranks. Raises CheckpointError when one is missing."""
    found = sorted(path for path in folder.iterdir() if SHARD_NAME.fullmatch(path.name))
    for rank, path in enumerate(found):
        if path.name != (wanted := f"consolidated.{rank:02}.pth"):
            raise CheckpointError(f"{folder}: {wanted} is missing, but there is {path.name}")
    return found


def open_meta(
    files: Sequence[Path],
    unpickle: Unpickle,
    config: Path | None = None,
    context_length: int | None = None,
    source: str | None = None,
) -> ForeignModel:
    """Return the model whose weights are in `files`, one a rank, which lie in one folder with tokenizer and config.

    The config is `config`, else what llama2.c's train.py wrote into the file, else config.json (Hugging Face's), else
    params.json (Meta's) of that folder; what it is shows in its keys. `context_length` is for a params.json, which does
    not say it. `source` defaults to the folder's name. Raises CheckpointError naming what is at fault, as
    `open_huggingface` does.
    """
    folder = files[0].parent
    safe_files = [unpickle(file) for file in files]
    shards = [read_header(file) for file in safe_files]
    origin = files[0] if len(files) == 1 else folder
    training = read_training_arguments(safe_files[0]) if config is None else None
    stated = training or _read_config(folder, config)
    architecture = _architecture(stated, origin, shards, context_length)
    if training is not None:  # llama2.c ties them always, without a word
        architecture = architecture.model_copy(update={"tied_embeddings": True})
    tensors = MetaTensors(origin, shards, architecture)
    # Meta's Llama 3.2 says use_scaled_rope as 3.1 does, but Hugging Face's copies of it divide by 32, not by 8. That
    # its head is its embedding is how it shows.
    if isinstance(stated, MetaParams) and stated.scaling_is_unsaid and tensors.head_is_embedding():
        raise CheckpointError(
            f"{origin}: params.json does not say by how much rope is scaled where the head is the embedding (Llama "
            '3.2); add "rope_scaling_factor" to it, or give the config.json of the same model by --config'
        )
    tokenizer = read_tokenizer(folder, architecture.vocabulary_size)
    hub_config = stated if isinstance(stated, HuggingFaceConfig) else None
    ends = read_end_of_text_ids(folder, hub_config) if hub_config else tokenizers_own_ends(folder, tokenizer)
    # In what llama2.c trains on, each text begins with BOS and nothing marks its end: run.c stops at the next one.
    if training is not None and tokenizer.bos_id is not None:
        ends = tuple(dict.fromkeys((*ends, tokenizer.bos_id)))
    return ForeignModel(
        source=source or folder.resolve().name,
        architecture=architecture,
        tokenizer=tokenizer,
        chat_template=read_chat_template(folder),
        end_of_text_ids=ends,
        tensors=tensors,
    )


def _read_config(folder: Path, given: Path | None) -> HuggingFaceConfig | MetaParams:
    """Return the config. Raises CheckpointError where there is none: nothing is guessed from the folder's name."""
    for path in [given] if given is not None else [folder / name for name in CONFIG_FILES]:
        if (fields := read_json(path)) is not None:
            return parse_config(path, fields) if "model_type" in fields else parse_params(path, fields)
    if given is not None:
        raise CheckpointError(f"{given} is missing")
    raise CheckpointError(
        f"{folder}: there is neither {' nor '.join(CONFIG_FILES)} beside the weights; --config names one elsewhere"
    )


def _architecture(
    stated: HuggingFaceConfig | MetaParams, origin: Path, shards: Sequence[Shard], context_length: int | None
) -> Architecture:
    if isinstance(stated, HuggingFaceConfig):
        if context_length is not None:
            raise CheckpointError("--context-length is for a params.json; config.json says how long the context is")
        return stated.architecture()
    parts = [shard.get(EMBEDDING) for shard in shards]
    shapes = [part.shape for part in parts if part is not None and len(part.shape) == 2]
    if len(shapes) < len(shards):
        raise CheckpointError(f"{origin}: missing tensors: {EMBEDDING}, a matrix")
    cut_by_rows = shapes[0][1] == stated.dim
    return stated.architecture(sum(rows for rows, _ in shapes) if cut_by_rows else shapes[0][0], context_length)
