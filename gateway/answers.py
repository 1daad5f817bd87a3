"""Our own results as messages of the public contract."""

from collections.abc import Sequence

from gateway.generation import Delta
from gateway.sampling.logprobs import ScoredLogprobs, TokenLogprobs
from gateway.speculation.record import SpeculationRecord
from gateway.stopping import Finish, FinishReason
from gateway.waterfall import Waterfall
from tandem.v1 import inference_service_pb2 as pb

FINISH_REASONS = {
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.END_OF_TEXT: pb.FINISH_REASON_END_OF_TEXT,
    FinishReason.STOP_TOKEN: pb.FINISH_REASON_STOP_TOKEN,
    FinishReason.STOP_STRING: pb.FINISH_REASON_STOP_STRING,
}


def delta(output: Delta) -> pb.GenerateResponse:
    """Return the delta event of some output."""
    message = pb.GenerateDelta(
        text=output.text,
        token_ids=output.token_ids,
        logprobs=[token_logprobs(entry) for entry in output.logprobs],
        is_draft=output.is_draft,
        text_lengths=output.text_lengths,
    )
    return pb.GenerateResponse(delta=message)


def token_logprobs(entry: TokenLogprobs) -> pb.TokenLogprobs:
    """Return what the model thought at one position."""
    return pb.TokenLogprobs(logprob=entry.logprob, top_ids=entry.top_ids, top_logprobs=entry.top_logprobs)


def finished(
    finish: Finish, usage: pb.Usage, waterfall: Waterfall, speculation: SpeculationRecord | None
) -> pb.GenerateResponse:
    """Return the last event of a stream."""
    message = pb.GenerateFinished(
        reason=FINISH_REASONS[finish.reason],
        stop_string=finish.stop_string,
        stop_token_id=finish.stop_token_id,
        usage=usage,
        timings=waterfall.timings(),
        speculation=None if speculation is None else speculation.report(),
    )
    return pb.GenerateResponse(finished=message)


def scored(
    token_ids: Sequence[int], first: int, chunks: Sequence[ScoredLogprobs], waterfall: Waterfall
) -> pb.ScoreResponse:
    """Return the answer to Score."""
    return pb.ScoreResponse(
        token_ids=token_ids,
        first_position=first,
        logprobs=[
            pb.TokenLogprobs(logprob=logprob, top_ids=ids, top_logprobs=logprobs)
            for chunk in chunks
            for logprob, ids, logprobs in zip(
                chunk.logprobs.tolist(), chunk.top_ids.tolist(), chunk.top_logprobs.tolist(), strict=True
            )
        ],
        is_greedy=[greedy for chunk in chunks for greedy in chunk.is_greedy.tolist()],
        timings=waterfall.timings(),
    )
