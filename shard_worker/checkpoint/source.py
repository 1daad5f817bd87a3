"""What a foreign model must tell for a checkpoint to be made of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from common.manifest import UNQUANTIZED, Architecture, Quantization

TokenizerKind = Literal["tokenizer_json", "sentencepiece", "tiktoken"]
TOKENIZER_FILES: dict[TokenizerKind, str] = {
    "tokenizer_json": "tokenizer.json",
    "sentencepiece": "tokenizer.model",
    "tiktoken": "tiktoken.json",
}

BLOCK_ELEMENTS = 1 << 20
"""About how many elements a conversion works on at a time: 4 MiB as float32, of which arithmetic makes several."""


@dataclass(frozen=True)
class TokenizerSource:
    """The tokenizer's file, and the id that is prepended to plain text, if any.

    `end_ids` are what the tokenizer itself calls ends, where it does; the first is a chat template's eos_token.
    """

    kind: TokenizerKind
    data: bytes
    bos_id: int | None
    end_ids: tuple[int, ...] = ()


class Tensors(Protocol):
    """The weights, under the names of `layout.expected_tensors` and in its rope layout."""

    def blocks(self, name: str) -> Iterator[torch.Tensor]:
        """Yield the tensor's rows from first to last, a block at a time, in any floating type."""
        ...


@dataclass(frozen=True)
class ForeignModel:
    """A model that is not in our format yet. `source` says where it is from, the same on every machine.

    Where `quantization` says so, `tensors` are those of a quantised checkpoint already.
    """

    source: str
    architecture: Architecture
    tokenizer: TokenizerSource
    chat_template: str | None
    end_of_text_ids: tuple[int, ...]
    tensors: Tensors
    quantization: Quantization = UNQUANTIZED


def row_blocks(rows: int, row_elements: int) -> Iterator[slice]:
    """Yield slices that cut a tensor into blocks of at least one row and about `BLOCK_ELEMENTS` elements."""
    step = max(1, BLOCK_ELEMENTS // max(1, row_elements))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
