"""A step's plan as the bytes that every rank gets (tandem.shard.v1.Plan)."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

from common.arrays import F32, I32, to_wire
from gateway.sampling.params import SamplingParams
from gateway.scheduling.plan import StepPlan
from gateway.scheduling.sequence import Kind, Sequence
from tandem.shard.v1 import shard_service_pb2 as pb


@dataclass(frozen=True)
class ListLengths:
    """How long the lists of a step's answers shall be (tandem.shard.v1.Plan says what each holds)."""

    num_noised: int
    num_top: int
    num_raw: int
    num_scored_raw: int


def encode_plan(plan: StepPlan, lengths: ListLengths) -> bytes:
    """Return the serialised Plan."""
    rows = plan.rows
    scored = [row.scored for row in rows]
    message = pb.Plan(
        row_sequences=_u32([row.sequence.number for row in rows]),
        row_base_lengths=_u32([row.base_length for row in rows]),
        row_lengths=_u32([len(row.token_ids) for row in rows]),
        row_sampled=_u32([row.sampled for row in rows]),
        row_scored=_u32(scored),
        token_ids=b"".join([row.token_ids for row in rows]),
        row_blocks=_u32([len(row.block_table) for row in rows]),
        block_tables=b"".join([row.block_table for row in rows]),
        num_noised=lengths.num_noised,
        num_top=lengths.num_top,
        num_raw=lengths.num_raw,
        num_scored_raw=lengths.num_scored_raw,
        row_run_ahead=_u32(plan.run_ahead),
    )
    if plan.opens:
        message.opens.extend([_open(sequence) for sequence in plan.opens])
    if plan.closes:
        message.closes = _u32(plan.closes)
    if any(scored):
        message.scored_ids = b"".join([row.scored_ids for row in rows])
    if plan.passes > 1:
        message.row_continued = _u32([row.continued for row in rows])
    return message.SerializeToString()


def encode_closes(closes: Iterable[int]) -> bytes:
    """Return the serialised Plan of a step that runs nothing and has the ranks forget these sequences."""
    return pb.Plan(closes=_u32(closes)).SerializeToString()


def _open(sequence: Sequence) -> pb.SequenceOpen:
    if sequence.kind is Kind.SCORE:
        return pb.SequenceOpen(sequence=sequence.number, repetition_penalty=1.0, traceparent=sequence.traceparent)
    params: SamplingParams = sequence.params
    return pb.SequenceOpen(
        sequence=sequence.number,
        seed=params.seed,
        temperature=params.temperature,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        bias_ids=to_wire(list(params.logit_bias), I32),
        bias_values=to_wire(list(params.logit_bias.values()), F32),
        prompt_length=sequence.prompt_length,
        history=to_wire(sequence.token_ids, I32) if params.has_penalties else b"",
        traceparent=sequence.traceparent,
    )


def _u32(values: Iterable[int]) -> bytes:
    return array("I", values).tobytes()
