"""Chat checkpoints in the styles of well-known models, and the reference for them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library

from common.manifest import Manifest
from gateway.chat.message import ChatMessage
from tests.gateway.tokenizers import samples

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim"
    " + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + '[/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
LLAMA3_SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


@dataclass(frozen=True)
class Checkpoint:
    """A tokenizer.json, a template, and the ids the manifest names."""

    data: bytes
    template: str
    bos: str
    eos: str
    bos_in_manifest: bool = True

    def write(self, folder: Path) -> Manifest:
        """Write the files and return their manifest."""
        (folder / "tokenizer").write_bytes(self.data)
        (folder / "chat_template.jinja").write_text(self.template)
        ids = Library.from_str(self.data.decode()).get_vocab()
        return samples.manifest_for(
            self.data,
            bos_id=ids[self.bos] if self.bos_in_manifest else None,
            end_of_text_ids=(ids[self.eos],),
            chat_template="chat_template.jinja",
        )

    def reference(self, messages: list[ChatMessage], template: str | None = None) -> list[int]:
        """Return what transformers makes of the messages."""
        import transformers

        make: Any = transformers.PreTrainedTokenizerFast
        library = Library.from_str(self.data.decode())
        tokenizer = make(tokenizer_object=library, bos_token=self.bos, eos_token=self.eos)
        ids = tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in messages],
            chat_template=template or self.template,
            tokenize=True,
            add_generation_prompt=True,
            return_dict=False,
        )
        assert isinstance(ids, list)
        return ids


def llama3_json() -> bytes:
    """Return a Llama-3-like tokenizer.json: no Prepend, special tokens at the end of the vocabulary."""
    spec = json.loads(samples.byte_level_json(special=(), digits=False))
    first = len(spec["model"]["vocab"])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    spec["added_tokens"] = [{"id": first + i, "content": c} | flags for i, c in enumerate(LLAMA3_SPECIAL)]
    spec["model"]["ignore_merges"] = True
    return json.dumps(spec).encode()


def checkpoints() -> dict[str, Checkpoint]:
    """Return every style by name."""
    mistral = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")
    return {
        "smollm2": Checkpoint(samples.byte_level_json(), SMOLLM2, "<|im_start|>", "<|im_end|>", bos_in_manifest=False),
        "llama3": Checkpoint(llama3_json(), LLAMA3, "<|begin_of_text|>", "<|eot_id|>"),
        "llama2": Checkpoint(samples.llama_json(False), LLAMA2, "<s>", "</s>"),
        "llama2_legacy": Checkpoint(samples.llama_json(True), LLAMA2, "<s>", "</s>"),
        "mistral": Checkpoint(samples.llama_json(False, mistral), MISTRAL, "<s>", "</s>"),
        "mistral_legacy": Checkpoint(samples.llama_json(True, mistral), MISTRAL, "<s>", "</s>"),
    }
