"""Tokenizer files of tiktoken's kind: Mistral's real ones, newer versions made of them, one of Llama 3's size."""

import functools
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from mistral_common.tokens.tokenizers.tekken import Tekkenizer

NUM_RANKS = 128_000


def tekken_files() -> list[Path]:
    """Return the files that mistral_common carries."""
    folder = Path(str(files("mistral_common"))) / "data"
    return sorted(path for path in folder.iterdir() if path.name.startswith("tekken"))


@functools.cache
def _newest() -> bytes:
    return tekken_files()[-1].read_bytes()


def newest_tekken() -> dict[str, Any]:
    """Return the newest file's JSON."""
    fields: dict[str, Any] = json.loads(_newest())
    return fields


def tekken_of_version(version: str) -> bytes:
    """Return a file of a later version: the first of the same tokens, and the special ones listed, as must be."""
    listed = [
        {"rank": token["rank"], "token_str": str(getattr(token["token_str"], "value", token["token_str"]))}
        | {"is_control": True}
        for token in Tekkenizer.DEPRECATED_SPECIAL_TOKENS
    ]
    # The rest is as in the real files of v11 and v13.
    more = [
        *("[AUDIO]", "[BEGIN_AUDIO]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]"),
        *("[MODEL_SETTINGS]", "[/MODEL_SETTINGS]"),
    ]
    listed += [{"rank": len(listed) + i, "token_str": token, "is_control": True} for i, token in enumerate(more)]
    fields = newest_tekken()
    fields["config"] |= {"version": version, "default_vocab_size": 21_000}
    fields["vocab"] = fields["vocab"][:20_000]
    return json.dumps(fields | {"special_tokens": listed}).encode()


@functools.cache
def llama3_ranks() -> bytes:
    """Return a ranks file with as many tokens as Llama 3's, those of Tekken."""
    vocabulary = newest_tekken()["vocab"][:NUM_RANKS]
    return "".join(f"{token['token_bytes']} {token['rank']}\n" for token in vocabulary).encode()
