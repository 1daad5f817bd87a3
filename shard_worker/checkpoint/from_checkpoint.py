"""A checkpoint of ours as a source of another one."""

from pathlib import Path

from common.errors import CheckpointError
from shard_worker.checkpoint.reader import CheckpointReader
from shard_worker.checkpoint.source import ForeignModel, TokenizerSource


def open_checkpoint(folder: Path) -> tuple[ForeignModel, CheckpointReader]:
    """Return the model in `folder`, and the reader that its tensors come from; closing it is the caller's.

    Raises CheckpointError when there is no checkpoint, or it is quantised: what was rounded once is not rounded again.
    """
    reader = CheckpointReader(folder)
    manifest = reader.manifest
    if manifest.quantization.mode != "none":
        reader.close()
        raise CheckpointError(f"{folder} is {manifest.quantization.mode} already; begin with the unquantised model")
    try:
        tokenizer = (folder / manifest.tokenizer.file).read_bytes()
        template = None if manifest.chat_template is None else (folder / manifest.chat_template).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reader.close()
        raise CheckpointError(f"{folder}: {error}") from error
    model = ForeignModel(
        source=f"{manifest.source}; quantised from the checkpoint {reader.hash}",
        architecture=manifest.architecture,
        tokenizer=TokenizerSource(manifest.tokenizer.kind, tokenizer, manifest.tokenizer.bos_id),
        chat_template=template,
        end_of_text_ids=manifest.end_of_text_ids,
        tensors=reader,
    )
    return model, reader
