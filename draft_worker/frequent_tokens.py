"""Which tokens are worth proposing? The most frequent ones of a text, then those that the tokenizer learned first."""

from collections import Counter

import torch
from torch import Tensor

from common.errors import CheckpointError
from shard_worker.checkpoint.source import ForeignModel
from shard_worker.quantization.calibration import tokenize


def frequent_ids(model: ForeignModel, text: str | None, count: int) -> Tensor:
    """Return `count` token ids of a model, int64, rising: what ends a text, what `text` has most, then the lowest ids.

    A byte pair encoding numbers its tokens in the order in which it merged them, and it merges the most frequent pair
    first (Sennrich et al. 2016): without a text, low ids are the best guess. Raises CheckpointError where the model
    does not have more tokens than `count`, or `count` does not hold those that end a text.
    """
    size = model.architecture.vocabulary_size
    ends = list(dict.fromkeys(model.end_of_text_ids))
    if not len(ends) < count < size:
        raise CheckpointError(f"{count} tokens to keep are not between {len(ends) + 1} and {size - 1}")
    counts = Counter(tokenize(text, model.tokenizer) if text is not None else [])
    by_count = sorted(counts, key=lambda id: (-counts[id], id))
    ranked = dict.fromkeys([*ends, *(id for id in by_count if id < size), *range(size)])
    return torch.tensor(sorted(list(ranked)[:count]))
