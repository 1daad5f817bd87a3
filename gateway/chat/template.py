"""A chat template and the process that renders it."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import common
from common.errors import CheckpointError, InvalidRequest, Unavailable

WORKER = Path(common.__file__).with_name("template_worker.py")
START_TIMEOUT_S = 30.0
# The worker's own alarm rings this much after its parent should have ended it.
ALARM_DELAY_S = 10.0
# JSON writes a control character as six bytes; others take at most four.
MAX_BYTES_PER_CHAR = 6
# Longer than the roles that templates speak of by themselves.
QUOTED_CHARS = 10


class ChatTemplate:
    """Renders conversations, one at a time, in a worker process that is started again whenever it was lost."""

    def __init__(self, source: str, variables: Mapping[str, str], timeout_s: float, max_chars: int) -> None:
        """`variables` are what the template sees beside the messages; `timeout_s` and `max_chars` bound a render."""
        self._settings = {
            "template": source,
            "variables": {**variables, "add_generation_prompt": True, "tools": None, "documents": None},
            "max_chars": max_chars,
            "alarm_s": timeout_s + ALARM_DELAY_S,
        }
        self._timeout_s = timeout_s
        self._max_answer_bytes = MAX_BYTES_PER_CHAR * max_chars + 4096
        self._process: Process | None = None
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """Start the worker. Raises CheckpointError when the template is not valid, Unavailable when it won't start."""
        async with self._turn:
            await self._running()

    async def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the rendered conversation, ready for the assistant's next turn.

        Raises InvalidRequest when the template refuses the messages, or takes too long or writes too much for
        them.
        """
        async with self._turn:
            process = await self._running()
            try:
                async with asyncio.timeout(self._timeout_s):
                    answer = await _ask(process, messages)
            except TimeoutError:
                await self._stop()
                raise InvalidRequest("chat", f"the template took longer than {self._timeout_s:g} s") from None
            except (OSError, EOFError):
                await self._stop()
                raise Unavailable("the process that renders chats was lost") from None
            except BaseException:
                # Cancelled half way: the answer would be taken for the next one's.
                await self._stop()
                raise
        if "error" in answer:
            told = "it refuses the messages" if _quotes(answer["error"], messages) else answer["error"]
            raise InvalidRequest("chat", f"the model's chat template: {told}")
        return str(answer["text"])

    async def close(self) -> None:
        """End the worker."""
        async with self._turn:
            await self._stop()

    async def _running(self) -> Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        await self._stop()
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-I", "-B", str(WORKER)),
                stdin=PIPE,
                stdout=PIPE,
                limit=self._max_answer_bytes,
                env={name: os.environ[name] for name in ("TZ", "LD_LIBRARY_PATH") if name in os.environ},
                start_new_session=True,  # a terminal's Ctrl-C is the gateway's, which drains first
            )
            async with asyncio.timeout(START_TIMEOUT_S):
                answer = await _ask(self._process, self._settings)
        except (OSError, EOFError) as error:
            await self._stop()
            raise Unavailable("the process that renders chats does not start") from error
        except BaseException:
            await self._stop()
            raise
        if "error" in answer:
            await self._stop()
            raise CheckpointError(f"the chat template is not valid: {answer['error']}")
        return self._process

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.kill()
        # Reads what is left, waits, and closes the pipes.
        await process.communicate()


async def _ask(process: Process, question: Any) -> dict[str, str]:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(question).encode() + b"\n")
    await process.stdin.drain()
    line = await process.stdout.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    answer: dict[str, str] = json.loads(line)
    return answer


def _quotes(error: str, messages: Sequence[Mapping[str, str]]) -> bool:
    """Whether a template's error repeats what a message says; what is shorter than that may stand in any text."""
    return any(len(text) >= QUOTED_CHARS and text in error for message in messages for text in message.values())
