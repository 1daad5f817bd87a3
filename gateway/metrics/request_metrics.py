"""How requests fare: how long they wait, until their first token and between tokens, and how they end."""

import time

from common.telemetry.metrics import REQUEST_BOUNDS_S, TOKEN_BOUNDS_S, TOKEN_COUNT_BOUNDS, Metrics
from gateway.decision import Job
from gateway.generation import Generation
from gateway.stopping import FinishReason
from gateway.waterfall import Waterfall

FAILED, CANCELLED = "error", "cancelled"
REASONS = (*(reason.value for reason in FinishReason), FAILED, CANCELLED)


class RequestMetrics:
    """Told by the step loop: of a request's first step, of each step's tokens, of its end."""

    def __init__(self, registry: Metrics) -> None:
        add = registry.histogram
        self._queue_s = add(
            "tandem.request.queue_time",
            "s",
            "Time from a request's admission to its first step.",
            REQUEST_BOUNDS_S,
        ).of()
        self._first_token_s = add(
            "tandem.time_to_first_token",
            "s",
            "Time from a Generate request's arrival to its first token, tokenisation and queue included.",
            TOKEN_BOUNDS_S,
        ).of()
        self._inter_token_s = add(
            "tandem.inter_token_latency",
            "s",
            "Time between a stream's tokens; tokens that one step yields together share the time since the last one.",
            TOKEN_BOUNDS_S,
        ).of()
        self._per_token_s = add(
            "tandem.time_per_output_token",
            "s",
            "A Generate request's mean time between its tokens, entered when it ends.",
            TOKEN_BOUNDS_S,
        ).of()
        self._duration_s = add(
            "tandem.request.duration",
            "s",
            "Time from a Generate request's arrival to its end, of requests that were admitted.",
            REQUEST_BOUNDS_S,
        ).of()
        self._prefill_s = add(
            "tandem.request.prefill_time",
            "s",
            "Time from a Generate request's first step to its first token.",
            REQUEST_BOUNDS_S,
        ).of()
        self._decode_s = add(
            "tandem.request.decode_time",
            "s",
            "Time from a Generate request's first token to its last.",
            REQUEST_BOUNDS_S,
        ).of()
        self._request_prompt = add(
            "tandem.request.prompt_tokens", "{token}", "Prompt tokens of a Generate request.", TOKEN_COUNT_BOUNDS
        ).of()
        self._request_generation = add(
            "tandem.request.generation_tokens", "{token}", "Tokens a Generate request was sent.", TOKEN_COUNT_BOUNDS
        ).of()
        count = registry.counter
        self._prompt_tokens = count(
            "tandem.prompt_tokens", "{token}", "Prompt tokens of requests that have begun, those of Score included."
        ).of()
        self._generation_tokens = count(
            "tandem.generation_tokens",
            "{token}",
            "Tokens sent to clients; a token that ends a stream is not sent.",
        ).of()
        self._queried_tokens = count(
            "tandem.prefix_cache.queried_tokens", "{token}", "Prompt tokens that were looked up in the prefix cache."
        ).of()
        self._hit_tokens = count(
            "tandem.prefix_cache.hit_tokens", "{token}", "Prompt tokens whose keys and values the prefix cache held."
        ).of()
        finished = count(
            "tandem.request.finished",
            "{request}",
            "Admitted Generate requests that ended, by reason.",
            ("reason",),
        )
        self._finished = {reason: finished.of(reason) for reason in REASONS}

    def began(self, job: Job) -> None:
        """The request's first step is done."""
        waterfall, sequence = job.waterfall, job.sequence
        self._queue_s.observe((waterfall.first_step_ns - waterfall.admitted_ns) * 1e-9)
        self._prompt_tokens.add(sequence.prompt_length)
        self._queried_tokens.add(sequence.prompt_length)
        self._hit_tokens.add(sequence.cached_prompt_tokens)

    def drew(self, job: Generation, waterfall: Waterfall) -> None:
        """A step drew tokens for the request."""
        new = job.completion_tokens - waterfall.counted_tokens
        if new:
            waterfall.counted_tokens = job.completion_tokens
            self._generation_tokens.value += new
        last_ns, previous_ns = waterfall.last_token_ns, waterfall.counted_until_ns
        if last_ns == previous_ns:
            return
        waterfall.counted_until_ns = last_ns
        if not previous_ns:
            self._first_token_s.observe((waterfall.first_token_ns - waterfall.arrived_ns) * 1e-9)
        elif new:
            self._inter_token_s.observe((last_ns - previous_ns) * 1e-9 / new, new)

    def ended(self, job: Job) -> None:
        """The request is over, whatever ended it."""
        if not isinstance(job, Generation):
            return
        ending = FAILED if job.failed else CANCELLED
        self._finished[job.finish.reason.value if job.finish is not None else ending].add()
        waterfall = job.waterfall
        self._duration_s.observe((time.perf_counter_ns() - waterfall.arrived_ns) * 1e-9)
        self._request_prompt.observe(job.sequence.prompt_length)
        self._request_generation.observe(job.completion_tokens)
        if not waterfall.first_token_ns:
            return
        self._prefill_s.observe((waterfall.first_token_ns - waterfall.first_step_ns) * 1e-9)
        decode_s = (waterfall.last_token_ns - waterfall.first_token_ns) * 1e-9
        self._decode_s.observe(decode_s)
        drawn = len(job.sequence.token_ids) - job.sequence.prompt_length
        if drawn > 1:
            self._per_token_s.observe(decode_s / (drawn - 1))
