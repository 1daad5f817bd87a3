"""Chat templates for models whose checkpoints come without one. Which fits, only the user knows: base models and
those tuned to chat have the same files.

They are rendered as transformers renders them: blocks' own lines and indents add nothing.
"""

from pathlib import Path

from common.errors import CheckpointError

MAX_TEMPLATE_BYTES = 1 << 20

_ALTERNATE = """\
{% if messages[0]['role'] == 'system' %}
{% set system = messages[0]['content'] %}
{% set turns = messages[1:] %}
{% else %}
{% set system = '' %}
{% set turns = messages %}
{% endif %}
{% for message in turns %}
{% if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') %}
{{- raise_exception('after a system message, roles must alternate user/assistant/user/...') -}}
{% endif %}
{% endfor %}
"""

# `chat_completion` in https://github.com/meta-llama/llama, llama/generation.py; that of CodeLlama-Instruct is the same.
_LLAMA2 = (
    _ALTERNATE
    + """\
{% for message in turns %}
{% if message['role'] == 'user' %}
{% set first = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' if loop.first and messages[0]['role'] == 'system' else '' %}
{{- bos_token + '[INST] ' + (first + message['content']).strip() + ' [/INST]' -}}
{% else %}
{{- ' ' + message['content'].strip() + ' ' + eos_token -}}
{% endif %}
{% endfor %}
"""
)

# `ChatFormat` in https://github.com/meta-llama/llama-models, models/llama3/chat_format.py.
_LLAMA3 = """\
{{- bos_token -}}
{% for message in messages %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'].strip() + '<|eot_id|>' -}}
{% endfor %}
{% if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{% endif %}
"""


def _mistral(before_last: str, user: str, assistant: str) -> str:
    """Return a template of mistral_common's `InstructTokenizer` classes (tokens/tokenizers/instruct.py).

    `before_last` says which user's message the system's is put before; else it has special tokens of its own.
    """
    own = "{{- '[SYSTEM_PROMPT]' + SYSTEM + '[/SYSTEM_PROMPT]' -}}" if not before_last else ""
    joined = f"(system + '\\n\\n' if system and {before_last} else '') + " if before_last else ""
    return (
        _ALTERNATE
        + "{{- bos_token -}}\n"
        + ("{% if messages[0]['role'] == 'system' %}\n" + own + "\n{% endif %}\n" if own else "")
        + "{% for message in turns %}\n{% if message['role'] == 'user' %}\n"
        + "{% set content = " + joined + "message['content'] %}\n"
        + "{{- " + user + " -}}\n{% else %}\n{% set content = message['content'] %}\n"
        + "{{- " + assistant + " -}}\n{% endif %}\n{% endfor %}\n"
    )  # fmt: skip


# SentencePiece puts a space before every text that it encodes, and nothing before an empty one.
_SPACED = "(' ' + {0} if {0} else '')"
_CONTENT, _ANSWER = _SPACED.format("content"), _SPACED.format("content.rstrip(' ')")
_MISTRAL_V3 = (f"'[INST]' + {_CONTENT} + '[/INST]'", f"{_ANSWER} + eos_token")
_MISTRAL_TEKKEN = ("'[INST]' + content + '[/INST]'", "content.rstrip(' ') + eos_token")

CHAT_TEMPLATES = {
    "llama-2": _LLAMA2,
    "llama-3": _LLAMA3,
    "codellama": _LLAMA2,
    "mistral-v1": _mistral(
        "loop.first",
        "(' ' if not loop.first else '') + '[INST] ' + content + ' [/INST]'",
        "' ' + content + eos_token",
    ),
    "mistral-v3": _mistral("loop.last", *_MISTRAL_V3),
    "mistral-v3-tekken": _mistral("loop.last", *_MISTRAL_TEKKEN),
    "mistral-v7": _mistral("", *_MISTRAL_V3).replace("SYSTEM +", _SPACED.format("system") + " +"),
    "mistral-v7-tekken": _mistral("", *_MISTRAL_TEKKEN).replace("SYSTEM +", "system +"),
}


def chat_template(name_or_file: str) -> str:
    """Return the template of that name, or the text of that file. Raises CheckpointError when it is neither."""
    if name_or_file in CHAT_TEMPLATES:
        return CHAT_TEMPLATES[name_or_file]
    path = Path(name_or_file)
    try:
        if path.stat().st_size > MAX_TEMPLATE_BYTES:
            raise CheckpointError(f"{path} is larger than {MAX_TEMPLATE_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        known = f"is no file that can be read, nor one of {', '.join(CHAT_TEMPLATES)}"
        raise CheckpointError(f"the chat template {name_or_file!r} {known}") from error
