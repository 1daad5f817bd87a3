"""One call as a span: whose trace it continues, how it ended, and what may be told of it. Never a prompt or a token"""

import asyncio
import logging
import time
from types import TracebackType
from typing import Any, Self

import grpc

from common.errors import TandemError
from common.status import status_code
from common.telemetry.log_lines import without_words
from common.telemetry.traceparent import parent_of
from common.telemetry.tracer import CANCELLED, NO_SPAN, OK, Ending, Tracer, Value
from gateway.generation import Generation
from gateway.hop_spans import Drafting, phases
from gateway.sampling.params import SamplingParams
from gateway.scoring import Scoring
from gateway.waterfall import Waterfall

PROVIDER = "tandem"
# A client counts its deadline from before its request is on the way, and then cancels.
DEADLINE_SLACK_S = 0.05
log = logging.getLogger(__name__)


class RequestTrace:
    """A context manager around one call. The service fills in what it learns; all is told when the call is over.

    Attribute names: https://github.com/open-telemetry/semantic-conventions-genai where it has one, else tandem.*.
    """

    def __init__(self, tracer: Tracer, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """`method` is the full name, package.Service/Method."""
        self.waterfall = Waterfall()
        self.request_id = ""
        self.model = ""
        self.operation = ""  # chat, text_completion or score; empty: a call that computes nothing
        self.prompt_tokens = 0
        self.job: Generation | Scoring | None = None
        self._method, self._context = method, context
        self._span = NO_SPAN
        if tracer.is_on:
            self._span = tracer.begin(method, self.waterfall.arrived_ns, parent_of(context.invocation_metadata()))

    @property
    def traceparent(self) -> str:
        """What ranks and draft workers are told; empty where nothing is traced, or the sampler did not take it."""
        return self._span.traceparent if self._span.is_recording else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tell how it ended. Raises TandemError in the place of what nobody expected."""
        ended_ns = time.perf_counter_ns()
        code, reason = self._ending(error)
        unexpected = error if code == "INTERNAL" and not isinstance(error, TandemError) else None
        fields = {**self._span.log_fields, "request_id": self.request_id}
        if unexpected is not None:
            log.error("%s failed: %s", self._method, without_words(unexpected), extra=fields)
        elif log.isEnabledFor(logging.DEBUG):
            took_ms = (ended_ns - self.waterfall.arrived_ns) / 1e6
            log.debug("%s: %s %s after %.1f ms", self._method, code, reason, took_ms, extra=fields)
        if self._span.is_recording:
            self._tell(ended_ns, code, reason)
        if isinstance(unexpected, Exception):
            raise TandemError("internal error") from None

    def _ending(self, error: BaseException | None) -> tuple[str, str]:
        """Return the status code's name, and a fixed word for the reason."""
        if error is None:
            return OK, ""
        if isinstance(error, TandemError):
            return status_code(error).name, error.reason
        if isinstance(error, asyncio.CancelledError | GeneratorExit | grpc.aio.InternalError | grpc.aio.AbortError):
            remaining_s = self._context.time_remaining()
            if remaining_s is not None and remaining_s <= DEADLINE_SLACK_S:
                return "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"
            return CANCELLED, ""
        return "INTERNAL", type(error).__name__

    def _tell(self, ended_ns: int, code: str, reason: str) -> None:
        if self.operation:
            speculation = self.job.speculation if isinstance(self.job, Generation) else None
            drafting = Drafting(speculation.wait_ns, speculation.rounds) if speculation is not None else Drafting()
            self._span.add(phases(self.waterfall, ended_ns, code == OK, drafting))
        name = f"{self.operation} {self.model}" if self.operation and self.model else None
        rpc = {"rpc.system.name": "grpc", "rpc.method": self._method, "rpc.response.status_code": code}
        self._span.end(ended_ns, Ending(code, reason, name, {**rpc, **self._attributes()}))

    def _attributes(self) -> dict[str, Value | None]:
        if not self.operation:
            return {}
        attributes: dict[str, Value | None] = {
            "gen_ai.operation.name": self.operation,
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": self.model or None,
            "gen_ai.response.model": self.model or None,
            "gen_ai.response.id": self.request_id or None,
            "gen_ai.usage.input_tokens": self.prompt_tokens or None,
            "tandem.steps": self.waterfall.hops.steps,
        }
        if self.job is not None:
            attributes["tandem.preemptions"] = self.job.sequence.preemptions
            attributes["gen_ai.usage.cache_read.input_tokens"] = self.job.sequence.cached_prompt_tokens
        if isinstance(self.job, Generation):
            attributes |= _asked(self.job.params, self.job.stop.max_new_tokens) | _answered(self.job)
        return attributes


def _asked(params: SamplingParams, max_tokens: int) -> dict[str, Value | None]:
    return {
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": max_tokens,
        "gen_ai.request.temperature": params.temperature,
        "gen_ai.request.top_p": params.top_p,
        "gen_ai.request.top_k": params.top_k,
        "gen_ai.request.seed": params.seed - (1 << 64) if params.seed >> 63 else params.seed,
        "gen_ai.request.frequency_penalty": params.frequency_penalty,
        "gen_ai.request.presence_penalty": params.presence_penalty,
    }


def _answered(job: Generation) -> dict[str, Value | None]:
    first_ns = job.waterfall.first_token_ns
    attributes: dict[str, Value | None] = {
        "gen_ai.output.type": "text",
        "gen_ai.usage.output_tokens": job.completion_tokens,
        "gen_ai.response.finish_reasons": [job.finish.reason.value] if job.finish is not None else None,
        "gen_ai.response.time_to_first_chunk": (first_ns - job.waterfall.arrived_ns) / 1e9 if first_ns else None,
    }
    record = job.speculation
    if record is not None:
        attributes |= {
            "tandem.speculation.rounds": record.rounds,
            "tandem.speculation.draft_tokens": sum(record.drafted_at),
            "tandem.speculation.accepted_tokens": sum(record.accepted_at),
            "tandem.speculation.ngram_accepted_tokens": record.ngram_accepted,
            "tandem.speculation.tokens_per_pass": record.tokens / max(1, record.passes),
            "tandem.speculation.wait_ms": record.wait_ns / 1e6,
        }
    return attributes
