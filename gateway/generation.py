"""One Generate request on its way: the step loop puts tokens in, the service takes deltas out."""

import asyncio
import time
from dataclasses import dataclass, field

from common.errors import TandemError
from gateway.detokenizer import StreamText
from gateway.sampling.logprobs import TokenLogprobs
from gateway.sampling.params import SamplingParams
from gateway.scheduling.sequence import Sequence
from gateway.speculation.record import SpeculationRecord
from gateway.stopping import Finish, FinishReason, StopRules
from gateway.waterfall import Waterfall


@dataclass
class Delta:
    """What a client has not been sent yet."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    is_draft: list[bool] = field(default_factory=list)
    text_lengths: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.text or self.token_ids)


class Generation:
    """Stop rules, text and output buffer of one sequence.

    Output that the client is slow to take piles up in one delta, which `max_new_tokens` bounds.
    """

    def __init__(
        self,
        sequence: Sequence,
        params: SamplingParams,
        stop: StopRules,
        text: StreamText,
        waterfall: Waterfall,
        max_draft_tokens: int = 0,
    ) -> None:
        self.sequence = sequence
        self.params = params
        self.stop = stop
        self.waterfall = waterfall
        self.max_draft_tokens = max_draft_tokens
        self.speculation = SpeculationRecord() if max_draft_tokens else None
        self.finish: Finish | None = None
        self.completion_tokens = 0
        self.whole_row_fallbacks = 0
        self._text = text
        self._delta = Delta()
        self._error: TandemError | None = None
        self._changed = asyncio.Event()

    @property
    def num_top_wanted(self) -> int:
        """Length of the list of best tokens that the next draw needs; it grows when records did not decide."""
        return self.params.num_top_wanted(self.whole_row_fallbacks)

    @property
    def failed(self) -> bool:
        """Whether the stream ends with an error."""
        return self._error is not None

    def accept(self, token_id: int, logprobs: TokenLogprobs | None, is_draft: bool = False) -> bool:
        """Take the next token, which a draft may have proposed; returns whether the stream ends with it."""
        now_ns = time.perf_counter_ns()
        self.waterfall.token(now_ns)
        reason = self.stop.token_ends(token_id)
        if reason is not None:
            self._end(Finish(reason, stop_token_id=token_id))
            return True
        self.completion_tokens += 1
        self._delta.token_ids.append(token_id)
        if logprobs is not None:
            self._delta.logprobs.append(logprobs)
        new = self._text.push(token_id)
        self._delta.text += new.text
        if self.speculation is not None:
            self._delta.is_draft.append(is_draft)
            self._delta.text_lengths.append(len(new.text))
        if new.stop_string is not None:
            self.finish = Finish(FinishReason.STOP_STRING, stop_string=new.stop_string)
        elif self.completion_tokens >= self.stop.max_new_tokens:
            self._end(Finish(FinishReason.LENGTH))
        self.waterfall.detokenize_ns += time.perf_counter_ns() - now_ns
        self._changed.set()
        return self.finish is not None

    def fail(self, error: TandemError) -> None:
        """End the stream with an error; what was generated before is still delivered."""
        self._error = error
        self._changed.set()

    async def take(self) -> Delta:
        """Wait for output and return all of it; empty only when the stream has ended.

        Raises the error the stream ended with, once all output has been taken.
        """
        while not self._delta and self.finish is None:
            if self._error is not None:
                raise self._error
            self._changed.clear()
            await self._changed.wait()
        delta, self._delta = self._delta, Delta()
        return delta

    def _end(self, finish: Finish) -> None:
        flushed = self._text.flush()
        self._delta.text += flushed.text
        # Held-back text may complete a stop string only when it is flushed.
        self.finish = (
            finish if flushed.stop_string is None else Finish(FinishReason.STOP_STRING, stop_string=flushed.stop_string)
        )
        self._changed.set()
