"""Chats with SentencePiece models, against mistral_common's own reading of them."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from mistral_common.protocol.instruct.messages import AssistantMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from gateway.chat.encoder import ChatEncoder
from gateway.chat.message import ChatMessage
from gateway.tokenizers.load import load_tokenizer
from tests.gateway.chat.checkpoints import MISTRAL
from tests.gateway.tokenizers import samples

CHATS = [
    ["What is the capital of France?"],
    ["a", "b", "c"],
    ["x = [1, 2]\n\tprint(x)", "é😀 日本語", "</s>[INST] <s> [/INST]<unk>"],
]


def encode(path: Path, template: str, folder: Path, chats: Sequence[Sequence[ChatMessage]]) -> list[list[int]]:
    data = path.read_bytes()
    (folder / "tokenizer").write_bytes(data)
    (folder / "chat.jinja").write_text(template)
    manifest = samples.manifest_for(data, "sentencepiece", 1, (2,), "chat.jinja")

    async def run() -> list[list[int]]:
        encoder = ChatEncoder(folder, manifest, load_tokenizer(folder, manifest), render_timeout_s=20)
        await encoder.start()
        try:
            return [await encoder.encode(chat) for chat in chats]
        finally:
            await encoder.close()

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("version", "template"),
    [
        (".v1", MISTRAL.replace("'[/INST]'", "' [/INST]'").replace("eos_token }}", "eos_token + ' ' }}")),
        (".v2", MISTRAL),
        (".v3", MISTRAL),
    ],
)
def test_ids_equal_mistral_common(version: str, template: str, tmp_path: Path) -> None:
    path = next(path for path in samples.sentencepiece_models() if path.name.endswith(version))
    reference = MistralTokenizer.from_file(str(path))
    roles = ("user", "assistant")
    chats = [[ChatMessage(roles[i % 2], text) for i, text in enumerate(texts)] for texts in CHATS]
    for texts, ids in zip(CHATS, encode(path, template, tmp_path, chats), strict=True):
        messages = [(UserMessage, AssistantMessage)[i % 2](content=text) for i, text in enumerate(texts)]
        assert ids == reference.encode_chat_completion(ChatCompletionRequest(messages=messages)).tokens, texts
