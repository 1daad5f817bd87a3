"""A model file of llama2.c, such as stories15M.bin, as a source of a checkpoint."""

from collections.abc import Iterator
from pathlib import Path

import torch

from common.errors import CheckpointError
from common.manifest import Architecture, Rope
from shard_worker.checkpoint.huggingface_tokenizer import read_tokenizer
from shard_worker.checkpoint.layout import expected_tensors
from shard_worker.checkpoint.llama2c_file import Llama2cFile
from shard_worker.checkpoint.llama2c_tokenizer import BOS_ID, EOS_ID, read_tokenizer_bin
from shard_worker.checkpoint.rope_layout import half_split, head_blocks
from shard_worker.checkpoint.source import ForeignModel, TokenizerSource, row_blocks

# Fixed in run.c.
NORM_EPS, ROPE_THETA = 1e-5, 10_000.0


def open_llama2c(path: Path, source: str | None = None) -> ForeignModel:
    """Return the model in `path`; its tokenizer.json, tokenizer.model or tokenizer.bin lies beside it.

    `source` defaults to the file's name. Raises CheckpointError when header and size do not fit, or the tokenizer does
    not.
    """
    file = Llama2cFile(path)
    header = file.header
    architecture = Architecture(
        family="llama",
        layers=header.layers,
        hidden_size=header.dim,
        intermediate_size=header.hidden_dim,
        query_heads=header.heads,
        kv_heads=header.kv_heads,
        head_dim=header.head_dim,
        vocabulary_size=header.vocabulary_size,
        context_length=header.max_seq_len,
        norm_eps=NORM_EPS,
        rope=Rope(theta=ROPE_THETA),
        tied_embeddings=header.shared_classifier,
    )
    return ForeignModel(
        source=source or path.name,
        architecture=architecture,
        tokenizer=_tokenizer(path.parent, header.vocabulary_size),
        chat_template=None,
        # The stories follow one another with the beginning of the next as the end of each: run.c stops there.
        end_of_text_ids=(EOS_ID, BOS_ID),
        tensors=_Llama2cTensors(file, architecture),
    )


def _tokenizer(folder: Path, vocabulary_size: int) -> TokenizerSource:
    if any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return read_tokenizer(folder, vocabulary_size)
    if (path := folder / "tokenizer.bin").is_file():
        return read_tokenizer_bin(path, vocabulary_size)
    raise CheckpointError(f"{folder}: there is neither tokenizer.model nor tokenizer.bin beside the model")


class _Llama2cTensors:
    """The weights, read block by block."""

    def __init__(self, file: Llama2cFile, architecture: Architecture) -> None:
        self._file = file
        self._head_dim = architecture.head_dim
        self._specs = expected_tensors(architecture, "float32")

    def blocks(self, name: str) -> Iterator[torch.Tensor]:
        """Yield float32 blocks of rows."""
        rows, *others = self._specs[name].shape
        if name.endswith((".query.weight", ".key.weight")):
            for block in self._file.blocks(name, head_blocks(rows, others[0], self._head_dim)):
                yield half_split(block, self._head_dim)
        else:
            yield from self._file.blocks(name, row_blocks(rows, others[0] if others else 1))
