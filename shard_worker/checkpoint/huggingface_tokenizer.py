"""The tokenizer, chat template and end ids of a folder in the Hugging Face hub's layout."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer

from common.errors import CheckpointError
from shard_worker.checkpoint.huggingface_base import HuggingFaceConfig
from shard_worker.checkpoint.huggingface_config import read_json
from shard_worker.checkpoint.llama3_tokenizer import is_ranks_file, read_llama3_tokenizer
from shard_worker.checkpoint.source import TokenizerSource
from shard_worker.checkpoint.tekken_tokenizer import read_tekken

MAX_TOKENIZER_BYTES = 64 << 20


def read_tokenizer(folder: Path, vocabulary_size: int) -> TokenizerSource:
    """Return tokenizer.json or, without one, tokenizer.model (of SentencePiece or tiktoken, told by its content) or,
    without that either, tekken.json.

    Whether plain text starts with the BOS token is what tokenizer_config.json says in `add_bos_token`;
    without that, what tokenizer.json's own post-processor does, or true for the others. Raises
    CheckpointError when there is no tokenizer, it has ids outside the vocabulary, or it adds anything but a
    BOS token.
    """
    config = read_json(folder / "tokenizer_config.json") or {}
    if config.get("add_eos_token"):
        raise CheckpointError(f"{folder / 'tokenizer_config.json'}: add_eos_token is not supported")
    if (path := folder / "tokenizer.json").is_file():
        return _from_tokenizer_json(path, config, vocabulary_size)
    if (path := folder / "tokenizer.model").is_file():
        data = _bounded(path)
        if not is_ranks_file(data):
            return _from_sentencepiece(path, data, config, vocabulary_size)
        return _with_bos(read_llama3_tokenizer(path, data, vocabulary_size), config)
    if (path := folder / "tekken.json").is_file():
        return _with_bos(read_tekken(path, _bounded(path), vocabulary_size), config)
    raise CheckpointError(f"{folder}: there is neither tokenizer.json nor tokenizer.model nor tekken.json")


def read_chat_template(folder: Path) -> str | None:
    """Return chat_template.jinja, else the (default) template in tokenizer_config.json, else None."""
    if (path := folder / "chat_template.jinja").is_file():
        try:
            return path.read_text(encoding="utf-8")
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error
    template = (read_json(folder / "tokenizer_config.json") or {}).get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise CheckpointError(f"{folder / 'tokenizer_config.json'}: chat_template is not a text")
    return template


def read_end_of_text_ids(folder: Path, config: HuggingFaceConfig) -> tuple[int, ...]:
    """Return eos_token_id of generation_config.json, else of config.json; one id or several."""
    ids = (read_json(folder / "generation_config.json") or {}).get("eos_token_id")
    ids = config.eos_token_id if ids is None else ids
    ids = [] if ids is None else ids if isinstance(ids, list) else [ids]
    if not all(isinstance(id, int) for id in ids):
        raise CheckpointError(f"{folder}: eos_token_id {ids} is not a list of token ids")
    return tuple(dict.fromkeys(ids))


def _from_tokenizer_json(path: Path, config: dict[str, Any], vocabulary_size: int) -> TokenizerSource:
    data = _bounded(path)
    try:
        tokenizer = Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{path}: {error}") from error
    if (largest := max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)) >= vocabulary_size:
        raise CheckpointError(f"{path}: id {largest} is not in the model's vocabulary of {vocabulary_size}")
    eos_id = _named(tokenizer, config.get("eos_token"))
    end_ids = () if eos_id is None else (eos_id,)
    if config.get("add_bos_token") is None:
        return TokenizerSource("tokenizer_json", data, _added_bos(path, tokenizer), end_ids)
    if not config["add_bos_token"]:
        return TokenizerSource("tokenizer_json", data, None, end_ids)
    bos_id = _named(tokenizer, config.get("bos_token"))
    if bos_id is None:
        raise CheckpointError(f"{path}: add_bos_token is set, but there is no token {config.get('bos_token')!r}")
    return TokenizerSource("tokenizer_json", data, bos_id, end_ids)


def _named(tokenizer: Tokenizer, token: Any) -> int | None:
    """Return the id of a token as tokenizer_config.json names it: its content, or an object with that."""
    id: int | None = tokenizer.token_to_id(str(token.get("content") if isinstance(token, dict) else token))
    return id


def _with_bos(tokenizer: TokenizerSource, config: dict[str, Any]) -> TokenizerSource:
    return tokenizer if config.get("add_bos_token", True) else replace(tokenizer, bos_id=None)


def _added_bos(path: Path, tokenizer: Tokenizer) -> int | None:
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a", add_special_tokens=True).ids
    if full == plain:
        return None
    if full[1:] != plain:
        raise CheckpointError(f"{path}: its post-processor adds more than one token at the start of a text")
    bos_id: int = full[0]
    return bos_id


def _from_sentencepiece(path: Path, data: bytes, config: dict[str, Any], vocabulary_size: int) -> TokenizerSource:
    try:
        processor = SentencePieceProcessor(model_proto=data)
    except (RuntimeError, OSError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    size = processor.vocab_size()
    if size > vocabulary_size:
        raise CheckpointError(f"{path}: {size} tokens do not fit in the model's vocabulary of {vocabulary_size}")
    added_tokens = (read_json(path.parent / "added_tokens.json") or {}).values()
    try:
        added = {int(id) for id in (*(config.get("added_tokens_decoder") or {}), *added_tokens)}
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path.parent}: ids of added tokens are not numbers: {error}") from error
    if beyond := sorted(id for id in added if id >= size):
        raise CheckpointError(f"{path}: added tokens {beyond} are not in it; a tokenizer.json is needed")
    bos_id = processor.bos_id() if config.get("add_bos_token", True) else -1
    end_ids = (processor.eos_id(),) if processor.eos_id() >= 0 else ()
    return TokenizerSource("sentencepiece", data, bos_id if bos_id >= 0 else None, end_ids)


def _bounded(path: Path) -> bytes:
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise CheckpointError(f"{path} is larger than {MAX_TOKENIZER_BYTES} bytes")
    return path.read_bytes()
