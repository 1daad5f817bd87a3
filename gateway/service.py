"""The public service: what each call means. Scheduling and sampling are the step loop's."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from common.errors import DeadlineExceeded, InvalidRequest
from common.manifest import Manifest
from gateway import answers, validation
from gateway.auth.callers import Callers
from gateway.detokenizer import StreamText
from gateway.generation import Generation
from gateway.limits import ModelLimits
from gateway.prompts import PromptReader
from gateway.request_trace import RequestTrace
from gateway.sampling.logprobs import ScoredLogprobs
from gateway.scheduling.sequence import Sequence
from gateway.scoring import Scoring
from gateway.step_loop import StepLoop
from tandem.v1 import inference_service_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]


class InferenceService:
    """tandem.v1.InferenceService over one step loop."""

    def __init__(
        self,
        loop: StepLoop,
        prompts: PromptReader,
        model: ModelLimits,
        manifest: Manifest,
        checkpoint_hash: str,
        callers: Callers | None = None,
    ) -> None:
        self._loop = loop
        self._prompts = prompts
        self._model = model
        self._manifest = manifest
        self._checkpoint_hash = checkpoint_hash
        self._callers = callers or Callers()

    async def Generate(
        self, request: pb.GenerateRequest, context: Context, trace: RequestTrace
    ) -> AsyncIterator[pb.GenerateResponse]:
        """Stream one answer."""
        waterfall = trace.waterfall
        trace.operation = "chat" if request.WhichOneof("prompt") == "chat" else "text_completion"
        caller = self._callers.admit(context)
        validation.check_model(request.model, self._model)
        trace.model = self._model.name
        validation.priority(request.priority)
        request_id = trace.request_id = validation.request_id(request.request_id)
        logprobs = request.logprobs if request.HasField("logprobs") else None
        params = validation.sampling_params(request.sampling, logprobs, self._model)
        prompt_ids = await self._prompts.read_prompt(request)
        trace.prompt_tokens = len(prompt_ids)
        validation.prompt_length(len(prompt_ids), request.WhichOneof("prompt") or "prompt", self._model)
        stop = validation.stop_rules(
            request.stopping,
            len(prompt_ids),
            self._manifest.end_of_text_ids,
            self._model,
            self._loop.group.kv_cache_tokens,
        )
        waterfall.tokenize_ns = time.perf_counter_ns() - waterfall.arrived_ns
        _check_deadline(context)

        sequence = Sequence(caller.tenant, prompt_ids, max_new_tokens=stop.max_new_tokens, params=params)
        sequence.traceparent = trace.traceparent
        text = StreamText(self._prompts.tokenizer, stop.stop_strings)
        max_draft_tokens = validation.max_draft_tokens(request.speculation, self._loop.max_draft_tokens)
        trace.job = generation = Generation(sequence, params, stop, text, waterfall, max_draft_tokens)
        self._loop.submit(generation)
        caller.charge(len(prompt_ids))
        try:
            output = await generation.take()
            yield pb.GenerateResponse(
                started=pb.GenerateStarted(
                    request_id=request_id, model=self._model.name, prompt_tokens=len(prompt_ids), seed=params.seed
                )
            )
            while output:
                caller.charge(len(output.token_ids))
                yield answers.delta(output)
                output = await generation.take()
            assert generation.finish is not None
            usage = pb.Usage(
                prompt_tokens=len(prompt_ids),
                completion_tokens=generation.completion_tokens,
                cached_prompt_tokens=sequence.cached_prompt_tokens,
                preemptions=sequence.preemptions,
            )
            yield answers.finished(generation.finish, usage, waterfall, generation.speculation)
        finally:
            self._loop.cancel(generation)

    async def Score(self, request: pb.ScoreRequest, context: Context, trace: RequestTrace) -> pb.ScoreResponse:
        """Return the log-probabilities of a given text, computed by the same scheduler as everything else."""
        waterfall = trace.waterfall
        trace.operation = "score"
        caller = self._callers.admit(context)
        validation.check_model(request.model, self._model)
        trace.model = self._model.name
        top_logprobs = validation.top_logprobs(request.top_logprobs)
        kind = request.WhichOneof("input")
        if kind is None:
            raise InvalidRequest("input", "one of text and token_ids must be set")
        if kind == "text":
            token_ids = await self._prompts.read_text(request.text)
        else:
            token_ids = validation.token_ids(request.token_ids.ids, "token_ids.ids", self._model)
        trace.prompt_tokens = len(token_ids)
        validation.prompt_length(len(token_ids), kind, self._model, room_for=0)
        if request.first_position >= len(token_ids):
            raise InvalidRequest("first_position", f"must be below the number of tokens, {len(token_ids)}")
        waterfall.tokenize_ns = time.perf_counter_ns() - waterfall.arrived_ns
        _check_deadline(context)

        first = max(request.first_position, 1)
        chunks: list[ScoredLogprobs] = []
        if first < len(token_ids):
            trace.job = scoring = Scoring(token_ids, first, top_logprobs, waterfall, caller.tenant)
            scoring.sequence.traceparent = trace.traceparent
            self._loop.submit(scoring)
            caller.charge(len(token_ids))
            try:
                chunks = await scoring.done()
            finally:
                self._loop.cancel(scoring)
        return answers.scored(token_ids, first, chunks, waterfall)

    async def GetModel(self, request: pb.GetModelRequest, context: Context, trace: RequestTrace) -> pb.GetModelResponse:
        """Describe the served model."""
        group = self._loop.group
        return pb.GetModelResponse(
            name=self._model.name,
            checkpoint_hash=self._checkpoint_hash,
            architecture=self._manifest.architecture.family,
            dtype=group.ranks[0].dtype,
            quantization=group.ranks[0].quantization,
            tensor_parallel_size=len(group.ranks),
            vocabulary_size=self._model.vocabulary_size,
            context_length=self._model.context_length,
            max_new_tokens=self._model.max_new_tokens,
            end_of_text_ids=self._manifest.end_of_text_ids,
            has_chat_template=self._manifest.chat_template is not None,
            tokenizer_hash=self._manifest.tokenizer.sha256,
            compact_saved_bytes=sum(rank.compact_saved_bytes for rank in group.ranks),
        )

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context, trace: RequestTrace) -> pb.TokenizeResponse:
        """Return the token ids Generate would feed to the model."""
        validation.check_model(request.model, self._model)
        kind = request.WhichOneof("prompt")
        if kind is None:
            raise InvalidRequest("prompt", "one of text and chat must be set")
        read = self._prompts.read_text(request.text) if kind == "text" else self._prompts.read_chat(request.chat)
        return pb.TokenizeResponse(token_ids=await read)

    async def Detokenize(
        self, request: pb.DetokenizeRequest, context: Context, trace: RequestTrace
    ) -> pb.DetokenizeResponse:
        """Return the text Generate would stream for these ids."""
        validation.check_model(request.model, self._model)
        token_ids = validation.token_ids(request.token_ids, "token_ids", self._model)
        return pb.DetokenizeResponse(text=await asyncio.to_thread(self._prompts.tokenizer.decode, token_ids))


def _check_deadline(context: Context) -> None:
    remaining_s = context.time_remaining()
    if remaining_s is not None and remaining_s <= 0:
        raise DeadlineExceeded("the call's deadline passed before work could start")
