"""Conversations to token ids."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from common.errors import InvalidRequest
from common.manifest import Manifest
from gateway.chat.guard import ChatGuard
from gateway.chat.message import ChatMessage
from gateway.chat.template import ChatTemplate
from gateway.tokenizers.checkpoint_files import read_chat_template
from gateway.tokenizers.interface import Tokenizer

MAX_RENDERED_CHARS = 4 << 20
# Shorter chats are guarded and tokenised in less time than a thread takes to wake up.
INLINE_CHARS = 2000


class ChatEncoder:
    """Reads conversations with the checkpoint's own chat template. Calls may overlap.

    The ids equal those of transformers' `apply_chat_template(..., add_generation_prompt=True)` for messages
    without special strings. Special strings in messages stay text.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        tokenizer: Tokenizer,
        render_timeout_s: float = 1.0,
        max_rendered_chars: int = MAX_RENDERED_CHARS,
    ) -> None:
        """Raises CheckpointError when the template cannot be read."""
        self._tokenizer = tokenizer
        self._template: ChatTemplate | None = None
        source = read_chat_template(folder, manifest)
        if source is not None:
            self._guard = ChatGuard(tokenizer.special_tokens, source)
            contents = {token_id: content for content, token_id in tokenizer.special_tokens.items()}
            eos_id = next(iter(manifest.end_of_text_ids), None)
            ids = {"bos_token": manifest.tokenizer.bos_id, "eos_token": eos_id}
            variables = {name: "" if token_id is None else contents.get(token_id, "") for name, token_id in ids.items()}
            self._template = ChatTemplate(source, variables, render_timeout_s, max_rendered_chars)

    async def start(self) -> None:
        """Start what renders. Raises CheckpointError when the template is not valid."""
        if self._template is not None:
            await self._template.start()

    async def encode(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Return the ids of a conversation, ready for the assistant's next turn.

        Raises InvalidRequest when the model has no template, or the template refuses the messages.
        """
        if self._template is None:
            raise InvalidRequest("chat", "the served model has no chat template")
        if sum(len(message.content) for message in messages) <= INLINE_CHARS:
            guarded, guard = self._guard.apply(messages)
        else:
            guarded, guard = await asyncio.to_thread(self._guard.apply, messages)
        text = await self._template.render(guarded)
        if len(text) <= INLINE_CHARS:
            return self._tokenizer.encode_rendered(text, guard)
        return await asyncio.to_thread(self._tokenizer.encode_rendered, text, guard)

    async def close(self) -> None:
        """Stop what renders."""
        if self._template is not None:
            await self._template.close()
