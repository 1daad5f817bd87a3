"""A model of random weights in a known shape: for measuring speed where no weights can be had."""

import zlib
from collections.abc import Iterator

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from common.errors import CheckpointError
from common.manifest import Architecture
from shard_worker.checkpoint.known_shapes import KNOWN_SHAPES
from shard_worker.checkpoint.layout import expected_tensors
from shard_worker.checkpoint.source import ForeignModel, TokenizerSource, row_blocks

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 256


def random_model(shape: str, seed: int) -> ForeignModel:
    """Return the model of `shape`, a key of KNOWN_SHAPES; the same seed gives the same bits.

    Raises CheckpointError when there is no such shape.
    """
    if shape not in KNOWN_SHAPES:
        raise CheckpointError(f"no shape {shape!r} is known; known are {', '.join(KNOWN_SHAPES)}")
    architecture = KNOWN_SHAPES[shape]
    return ForeignModel(
        source=f"random weights, shape {shape}, seed {seed}",
        architecture=architecture,
        tokenizer=TokenizerSource("tokenizer_json", _tokenizer(architecture.vocabulary_size), bos_id=None),
        chat_template=None,
        end_of_text_ids=(END_OF_TEXT_ID,),
        tensors=RandomTensors(architecture, seed),
    )


class RandomTensors:
    """Norms are ones; matrices are uniform with variance 1 / inputs, which keeps activations finite at any depth."""

    def __init__(self, architecture: Architecture, seed: int) -> None:
        self._shapes = {name: spec.shape for name, spec in expected_tensors(architecture, "float32").items()}
        self._seed = seed

    def blocks(self, name: str) -> Iterator[torch.Tensor]:
        """Yield the rows of tensor `name`, float32, a block at a time."""
        shape = self._shapes[name]
        if len(shape) == 1:
            yield torch.ones(shape)
            return
        rows, columns = shape
        bound = (3.0 / columns) ** 0.5
        # Seeded by name too, so that no tensor depends on the order in which they are asked for. PyTorch's generator
        # on the CPU looks at 32 bits of its seed.
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self._seed}/{name}".encode()))
        for block in row_blocks(rows, columns):
            yield torch.empty(block.stop - block.start, columns).uniform_(-bound, bound, generator=generator)


def _tokenizer(vocabulary_size: int) -> bytes:
    """Return a byte-level tokenizer.json: 256 bytes, end of text, and a word for each id that is left.

    No merges: text is read byte by byte, but every id that the model draws has some text.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [f"Ġ{number:x}" for number in range(vocabulary_size - len(alphabet) - 1)]
    pieces = [*alphabet, END_OF_TEXT, *words]
    assert pieces[END_OF_TEXT_ID] == END_OF_TEXT
    tokenizer = Tokenizer(models.BPE(vocab={piece: id for id, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return tokenizer.to_str().encode()
