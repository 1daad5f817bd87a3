"""Llama 3's tokenizer.model, a ranks file of tiktoken, with what only Meta's code says of it.

Format (tiktoken, load.py): a line a token, its bytes in base64, a space, its rank. The split pattern and the special
tokens are those of https://github.com/meta-llama/llama-models, models/llama3/tokenizer.py, which Llama 3, 3.1, 3.2 and
3.3 share: where their names of a special token differ, they are of 3.1, and the ids are the same.
"""

import base64
import re
from pathlib import Path

from pydantic import ValidationError

from common.errors import CheckpointError
from common.tiktoken_file import TiktokenFile, reasons
from shard_worker.checkpoint.gguf_tokenizer import LLAMA3_SPLIT
from shard_worker.checkpoint.source import TokenizerSource

LINE = re.compile(rb"([A-Za-z0-9+/]+={0,2}) (\d{1,7})")
NUM_RANKS = 128_000
NUM_SPECIAL_TOKENS = 256
BEGIN_OF_TEXT = "<|begin_of_text|>"
ENDS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
"""Meta's `stop_tokens`: the ends of a text, of a message, and of a turn."""
NAMED = (
    *(BEGIN_OF_TEXT, "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"),
    *("<|finetune_right_pad_id|>", "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|eom_id|>", "<|eot_id|>", "<|python_tag|>"),
)


def is_ranks_file(data: bytes) -> bool:
    """Return whether a file begins as a ranks file of tiktoken does; a SentencePiece model never does."""
    return LINE.fullmatch(data[:4096].splitlines()[0]) is not None if data.strip() else False


def read_llama3_tokenizer(path: Path, data: bytes, vocabulary_size: int) -> TokenizerSource:
    """Return the tokenizer in a ranks file.

    Raises CheckpointError where the file is damaged, is not as long as Llama 3's (the pattern and the special tokens of
    any other are unknown), or has ids that the model has not.
    """
    ranks = _ranks(path, data)
    if len(ranks) != NUM_RANKS:
        raise CheckpointError(
            f"{path}: {len(ranks)} ranks are not Llama 3's {NUM_RANKS}; how a text is split and which tokens are "
            "special is not in such a file, so that a tokenizer.json is needed"
        )
    if (size := NUM_RANKS + NUM_SPECIAL_TOKENS) > vocabulary_size:
        raise CheckpointError(f"{path}: {size} tokens do not fit in the model's vocabulary of {vocabulary_size}")
    special = {content: NUM_RANKS + i for i, content in enumerate(_special_tokens())}
    try:
        file = TiktokenFile(pattern=LLAMA3_SPLIT, first_id=0, tokens=ranks, special_tokens=special)
    except ValidationError as error:
        raise CheckpointError(f"{path}: {reasons(error)}") from error
    ends = tuple(special[content] for content in ENDS)
    return TokenizerSource("tiktoken", file.serialise(), special[BEGIN_OF_TEXT], ends)


def _ranks(path: Path, data: bytes) -> tuple[str, ...]:
    """Return each token's base64, by rank."""
    ranks: list[str] = []
    for number, line in enumerate(data.splitlines(), start=1):
        if not line:
            continue
        if (entry := LINE.fullmatch(line)) is None or int(entry[2]) != len(ranks):
            raise CheckpointError(f"{path}: line {number} is not a token and the rank {len(ranks)}")
        try:
            base64.b64decode(entry[1], validate=True)
        except ValueError as error:
            raise CheckpointError(f"{path}: line {number}: {error}") from error
        ranks.append(entry[1].decode())
    return tuple(ranks)


def _special_tokens() -> list[str]:
    reserved = (f"<|reserved_special_token_{i}|>" for i in range(3, NUM_SPECIAL_TOKENS))
    return [*NAMED, *(token for token, _ in zip(reserved, range(NUM_SPECIAL_TOKENS - len(NAMED)), strict=False))]
