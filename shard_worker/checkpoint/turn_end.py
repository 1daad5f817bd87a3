"""Which special token ends a turn? The one that the chat template itself writes after what the assistant said."""

import json
import subprocess
import sys
from pathlib import Path

from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer

import common
from common.tiktoken_file import read_tiktoken_file
from shard_worker.checkpoint.source import TokenizerSource

TEMPLATE_WORKER = Path(common.__file__).with_name("template_worker.py")
RENDER_TIMEOUT_S = 30.0
MAX_CHARS = 1 << 20
ANSWER = "tandemanswer"
"""A word that templates have no reason to write themselves, or to change."""


def turn_end_id(template: str, tokenizer: TokenizerSource, end_ids: tuple[int, ...]) -> int | None:
    """Return the id of the special token behind an assistant's message, white space between them left aside.

    `end_ids` and the tokenizer's begin-of-text id are what the template sees as eos_token and bos_token. None where
    there is no special token behind the message, and where the template does not render.
    """
    special = special_tokens(tokenizer)
    contents = {id: content for content, id in special.items()}
    variables = {
        "bos_token": "" if tokenizer.bos_id is None else contents.get(tokenizer.bos_id, ""),
        "eos_token": contents.get(end_ids[0], "") if end_ids else "",
        "add_generation_prompt": False,
        "tools": None,
        "documents": None,
    }
    _, answer, behind = (_render(template, variables) or "").rpartition(ANSWER)
    if not answer:
        return None
    found = [content for content in special if content.strip() and behind.lstrip().startswith(content.lstrip())]
    return special[max(found, key=len)] if found else None


def special_tokens(tokenizer: TokenizerSource) -> dict[str, int]:
    """Return the tokens that are no part of plain text, by content."""
    match tokenizer.kind:
        case "tiktoken":
            return dict(read_tiktoken_file(tokenizer.data).special_tokens)
        case "tokenizer_json":
            added = Tokenizer.from_buffer(tokenizer.data).get_added_tokens_decoder()
            return {token.content: id for id, token in added.items()}
        case "sentencepiece":
            processor = SentencePieceProcessor(model_proto=tokenizer.data)
            ids = range(processor.vocab_size())
            return {processor.id_to_piece(id): id for id in ids if processor.is_control(id)}


def _render(template: str, variables: dict[str, object]) -> str | None:
    """Return a short conversation as the template has it. A template is not trusted: a child process renders it."""
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": ANSWER}]
    settings = {
        "template": template,
        "variables": variables,
        "max_chars": MAX_CHARS,
        "alarm_s": RENDER_TIMEOUT_S,
    }
    lines = "".join(json.dumps(line) + "\n" for line in (settings, messages))
    try:
        child = subprocess.run(
            [sys.executable, "-I", "-B", str(TEMPLATE_WORKER)],
            input=lines.encode(),
            stdout=subprocess.PIPE,
            timeout=RENDER_TIMEOUT_S,
            env={},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    answers = child.stdout.splitlines()
    text = json.loads(answers[-1]).get("text") if len(answers) == 2 else None
    return None if text is None else str(text)
