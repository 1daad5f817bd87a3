"""A checkpoint of ours as a source of another one."""

from pathlib import Path

from common.errors import CheckpointError
from shard_worker.checkpoint.reader import CheckpointReader
from shard_worker.checkpoint.source import ForeignModel, TokenizerSource


def open_checkpoint(folder: Path) -> tuple[ForeignModel, CheckpointReader]:
    """Return the model in `folder`, and the reader that its tensors come from; closing it is the caller's.

    Raises CheckpointError when there is no checkpoint, or it is quantised: what was rounded once is not rounded again.
    """
    model, reader = open_stored(folder, "quantised")
    if model.quantization.mode != "none":
        reader.close()
        raise CheckpointError(f"{folder} is {model.quantization.mode} already; begin with the unquantised model")
    return model, reader


def open_stored(folder: Path, work: str) -> tuple[ForeignModel, CheckpointReader]:
    """As open_checkpoint, of any checkpoint, in the form it has. `work` is what a model's source will say was done."""
    reader = CheckpointReader(folder)
    manifest = reader.manifest
    try:
        tokenizer = (folder / manifest.tokenizer.file).read_bytes()
        template = None if manifest.chat_template is None else (folder / manifest.chat_template).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reader.close()
        raise CheckpointError(f"{folder}: {error}") from error
    model = ForeignModel(
        source=f"{manifest.source}; {work} from the checkpoint {reader.hash}",
        architecture=manifest.architecture,
        tokenizer=TokenizerSource(manifest.tokenizer.kind, tokenizer, manifest.tokenizer.bos_id),
        chat_template=template,
        end_of_text_ids=manifest.end_of_text_ids,
        tensors=reader,
        quantization=manifest.quantization,
    )
    return model, reader
