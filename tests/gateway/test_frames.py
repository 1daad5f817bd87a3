"""A step's plan on the wire: what the ranks read is what the scheduler said."""

from array import array

from common.arrays import F32, I32, U32, from_wire
from gateway.frames import ListLengths, encode_plan
from gateway.sampling.params import SamplingParams
from gateway.scheduling.plan import StepPlan, make_row
from gateway.scheduling.sequence import Kind, Sequence
from tandem.shard.v1 import shard_service_pb2 as pb

LENGTHS = ListLengths(num_noised=8, num_top=5, num_raw=6, num_scored_raw=2)
PARAMS = SamplingParams(
    temperature=0.5, seed=(1 << 64) - 1, presence_penalty=0.25, frequency_penalty=-0.5, logit_bias={7: 1.5, 3: -2.0}
)


def sequence_of(ids: list[int], number: int, blocks: list[int], computed: int = 0, **fields: object) -> Sequence:
    sequence = Sequence(tenant="", prompt_ids=ids, max_new_tokens=4, **fields)  # type: ignore[arg-type]
    sequence.number, sequence.num_computed = number, computed
    sequence.block_table = array("i", blocks)
    return sequence


def encoded(*sequences: Sequence, num_ids: list[int], closes: tuple[int, ...] = (), continued: int = 0) -> pb.Plan:
    rows = tuple(make_row(sequence, count, continued) for sequence, count in zip(sequences, num_ids, strict=True))
    opens = tuple(sequence for sequence in sequences if not sequence.opened)
    plan = StepPlan(rows, opens, closes, decode_tokens=0, prefill_tokens=sum(num_ids))
    return pb.Plan.FromString(encode_plan(plan, LENGTHS))


def u32(data: bytes) -> list[int]:
    return list(from_wire(data, U32, (-1,), "u32"))


def i32(data: bytes) -> list[int]:
    return list(from_wire(data, I32, (-1,), "i32"))


def test_rows() -> None:
    chunk = sequence_of([1, 2, 3, 4, 5, 6], 11, [9, 2], params=SamplingParams())
    last = sequence_of([21, 22, 23], 12, [4], computed=1, params=SamplingParams())
    score = sequence_of([31, 32, 33, 34], (1 << 32) - 1, [5], kind=Kind.SCORE, first_scored=2)
    last.opened = True
    plan = encoded(chunk, last, score, num_ids=[4, 2, 3], closes=(1, 2))
    assert u32(plan.row_sequences) == [11, 12, (1 << 32) - 1]
    assert u32(plan.row_base_lengths) == [0, 1, 0]
    assert u32(plan.row_lengths) == [4, 2, 3]
    assert u32(plan.row_sampled) == [0, 1, 0]  # the chunk does not reach the end of its prompt
    assert u32(plan.row_scored) == [0, 0, 2]
    assert i32(plan.token_ids) == [1, 2, 3, 4, 22, 23, 31, 32, 33]
    assert i32(plan.scored_ids) == [33, 34]
    assert u32(plan.row_blocks) == [2, 1, 1]
    assert i32(plan.block_tables) == [9, 2, 4, 5]
    assert u32(plan.closes) == [1, 2]
    assert (plan.num_noised, plan.num_top, plan.num_raw, plan.num_scored_raw) == (8, 5, 6, 2)
    assert [opened.sequence for opened in plan.opens] == [11, (1 << 32) - 1]


def test_continued_rows() -> None:
    rows = [sequence_of([1, 2], number, [number], computed=1, params=PARAMS) for number in (3, 4)]
    assert u32(encoded(*rows, num_ids=[1, 1], continued=3).row_continued) == [3, 3]
    assert encoded(*rows, num_ids=[1, 1]).row_continued == b""


def test_a_sequence_is_opened_with_its_parameters() -> None:
    sequence = sequence_of([1, 2, 3], 5, [0], params=PARAMS)
    sequence.append([8])
    (opened,) = encoded(sequence, num_ids=[4]).opens
    assert (opened.seed, opened.temperature, opened.repetition_penalty) == ((1 << 64) - 1, 0.5, 1.0)
    assert (opened.presence_penalty, opened.frequency_penalty) == (0.25, -0.5)
    assert dict(zip(i32(opened.bias_ids), from_wire(opened.bias_values, F32, (-1,), "bias"), strict=True)) == {
        7: 1.5,
        3: -2.0,
    }
    assert (opened.prompt_length, i32(opened.history)) == (3, [1, 2, 3, 8])


def test_history_is_sent_only_where_penalties_need_it() -> None:
    plain = sequence_of([1, 2, 3], 5, [0], params=SamplingParams(temperature=1.0))
    scored = sequence_of([1, 2, 3], 6, [1], kind=Kind.SCORE)
    opens = encoded(plain, scored, num_ids=[3, 2]).opens
    assert [opened.history for opened in opens] == [b"", b""]
    assert [opened.repetition_penalty for opened in opens] == [1.0, 1.0]
    assert opens[1].temperature == 0
