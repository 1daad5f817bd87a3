"""Our own results as messages of the public contract."""

from gateway.generation import Delta
from gateway.sampling.logprobs import PositionLogprobs
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
        text=output.text, token_ids=output.token_ids, logprobs=[token_logprobs(entry) for entry in output.logprobs]
    )
    return pb.GenerateResponse(delta=message)


def token_logprobs(entry: PositionLogprobs) -> pb.TokenLogprobs:
    """Return what the model thought at one position."""
    return pb.TokenLogprobs(logprob=entry.logprob, top_ids=entry.top_ids, top_logprobs=entry.top_logprobs)


def finished(finish: Finish, usage: pb.Usage, waterfall: Waterfall) -> pb.GenerateResponse:
    """Return the last event of a stream."""
    message = pb.GenerateFinished(
        reason=FINISH_REASONS[finish.reason],
        stop_string=finish.stop_string,
        stop_token_id=finish.stop_token_id,
        usage=usage,
        timings=waterfall.timings(),
    )
    return pb.GenerateResponse(finished=message)
