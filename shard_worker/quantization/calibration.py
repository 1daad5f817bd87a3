"""The text that GPTQ sees a model's typical inputs in."""

from pathlib import Path

import torch
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer
from torch import Tensor

from common.errors import CheckpointError
from common.tiktoken_file import build_encoding, read_tiktoken_file
from shard_worker.checkpoint.source import TokenizerSource

SEQUENCE_TOKENS = 512
MIN_SEQUENCE_TOKENS = 16


def calibration_text(path: Path | None) -> str:
    """Return the text in `path`, or Python's own language reference, which comes with every interpreter.

    Raises CheckpointError when the file cannot be read as UTF-8.
    """
    if path is None:
        from pydoc_data.topics import topics  # 750 KB of English prose about Python

        return "\n\n".join(topics[name] for name in sorted(topics))
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"calibration text {path}: {error}") from error


def calibration_ids(text: str, tokenizer: TokenizerSource, num_tokens: int, context_length: int) -> Tensor:
    """Return int64[sequences, n]: about `num_tokens` ids in sequences spread evenly over the text.

    Raises CheckpointError when the text is shorter than MIN_SEQUENCE_TOKENS.
    """
    ids = torch.tensor(tokenize(text, tokenizer), dtype=torch.int64)
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    length = min(SEQUENCE_TOKENS, context_length, len(begin) + len(ids), num_tokens)
    if length < MIN_SEQUENCE_TOKENS:
        raise CheckpointError(
            f"a calibration of {length} tokens is too short: at least {MIN_SEQUENCE_TOKENS} are needed"
        )
    step = length - len(begin)
    sequences = ids[: len(ids) // step * step].view(-1, step)
    wanted = min(len(sequences), max(1, num_tokens // length))
    chosen = sequences[torch.arange(wanted) * len(sequences) // wanted]
    return torch.cat((torch.tensor(begin, dtype=torch.int64).expand(wanted, -1), chosen), dim=1)


def tokenize(text: str, tokenizer: TokenizerSource) -> list[int]:
    """Return the ids of plain text, without special tokens around it."""
    if tokenizer.kind == "sentencepiece":
        processor = SentencePieceProcessor()
        processor.LoadFromSerializedProto(tokenizer.data)
        pieces: list[int] = processor.EncodeAsIds(text)
        return pieces
    if tokenizer.kind == "tiktoken":
        file = read_tiktoken_file(tokenizer.data)
        return [file.first_id + rank for rank in build_encoding(file).encode_ordinary(text)]
    ids: list[int] = Tokenizer.from_buffer(tokenizer.data).encode(text, add_special_tokens=False).ids
    return ids
