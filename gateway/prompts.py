"""From a request's prompt to token ids, without ever holding up the event loop."""

import asyncio
from pathlib import Path

from common.errors import InvalidRequest
from common.manifest import Manifest
from gateway import validation
from gateway.chat.encoder import ChatEncoder
from gateway.limits import ModelLimits
from gateway.tokenizers.interface import Tokenizer
from gateway.tokenizers.load import load_tokenizer
from tandem.v1 import inference_service_pb2 as pb

# Texts up to this size are tokenised in well under a millisecond; longer ones go to a thread.
INLINE_CHARS = 2000


class PromptReader:
    """Reads prompts of every kind with the checkpoint's own tokenizer and template."""

    def __init__(self, folder: Path, manifest: Manifest, model: ModelLimits) -> None:
        self.tokenizer: Tokenizer = load_tokenizer(folder, manifest)
        self.has_chat_template = manifest.chat_template is not None
        self._bos = [] if manifest.tokenizer.bos_id is None else [manifest.tokenizer.bos_id]
        self._chat = ChatEncoder(folder, manifest, self.tokenizer)
        self._model = model

    async def start(self) -> None:
        """Start what renders chat templates."""
        await self._chat.start()

    async def close(self) -> None:
        """Stop what renders chat templates."""
        await self._chat.close()

    async def read_prompt(self, request: pb.GenerateRequest) -> list[int]:
        """Return the prompt's token ids. Raises InvalidRequest."""
        kind = request.WhichOneof("prompt")
        if kind == "text":
            return await self.read_text(request.text)
        if kind == "chat":
            return await self.read_chat(request.chat)
        if kind == "token_ids":
            return validation.token_ids(request.token_ids.ids, "token_ids.ids", self._model)
        raise InvalidRequest("prompt", "one of text, token_ids and chat must be set")

    async def read_text(self, text: str) -> list[int]:
        """Return the ids of plain text, begin-of-text token included where the model asks for one."""
        if len(text) <= INLINE_CHARS:
            return self._bos + self.tokenizer.encode(text)
        return self._bos + await asyncio.to_thread(self.tokenizer.encode, text)

    async def read_chat(self, chat: pb.ChatMessages) -> list[int]:
        """Return the ids of a conversation, ready for the assistant's next turn."""
        if not self.has_chat_template:
            raise InvalidRequest("chat", "the served model has no chat template")
        token_ids: list[int] = await self._chat.encode(validation.chat_messages(chat))
        return token_ids
