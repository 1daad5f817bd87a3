"""Generate, feature by feature: the order of events, prompts of all kinds, every way to finish, usage and timings."""

import random

import pytest

from tandem.v1 import inference_service_pb2 as pb
from tandem.v1.sampling_pb2 import LogitBias, SamplingParams
from tests.support.answers import Answer, generate, text_request
from tests.support.cluster import Cluster
from tests.support.tiny_model import END_OF_TURN_ID

CONTEXT = 4096
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PROMPT = "The rain in Spain"


@pytest.fixture(scope="module")
def letters_only(tiny_cluster: Cluster) -> SamplingParams:
    """Draws that can only be letters, and are the same every time."""
    ids = tiny_cluster.stub.Tokenize(pb.TokenizeRequest(text=LETTERS)).token_ids
    biases = [LogitBias(token_id=token_id, bias=500.0) for token_id in ids]
    return SamplingParams(temperature=1.0, seed=3, logit_bias=biases)


def forced(token_id: int) -> SamplingParams:
    """Return parameters under which every token is this one."""
    return SamplingParams(logit_bias=[LogitBias(token_id=token_id, bias=1000.0)])


def stopped(cluster: Cluster, sampling: SamplingParams, **stopping: object) -> Answer:
    stops = pb.StoppingParams(**({"max_tokens": 40} | stopping))  # type: ignore[arg-type]
    return generate(cluster.stub, pb.GenerateRequest(text=PROMPT, sampling=sampling, stopping=stops))


def test_events_and_echo(tiny_cluster: Cluster) -> None:
    answer = generate(tiny_cluster.stub, text_request(PROMPT, 12, request_id="my own id"))
    assert (answer.started.request_id, answer.started.model) == ("my own id", "tiny")
    assert answer.started.prompt_tokens == len(PROMPT)
    assert len(answer.ids) == answer.usage.completion_tokens == 12 and not answer.logprobs
    assert (answer.finished.reason, answer.finished.stop_string) == (pb.FINISH_REASON_LENGTH, "")
    assert not answer.finished.HasField("stop_token_id")
    decoded = tiny_cluster.stub.Detokenize(pb.DetokenizeRequest(token_ids=answer.ids))
    assert decoded.text == answer.text
    chosen = {generate(tiny_cluster.stub, text_request(PROMPT, 1)).started.request_id for _ in range(3)}
    assert len(chosen) == 3 and "" not in chosen


def test_the_reported_seed_reproduces_the_answer(tiny_cluster: Cluster) -> None:
    warm = SamplingParams(temperature=1.2)
    answers = [generate(tiny_cluster.stub, text_request(PROMPT, 24, warm)) for _ in range(3)]
    assert len({answer.started.seed for answer in answers}) == 3
    assert len({tuple(answer.ids) for answer in answers}) == 3
    for answer in answers:
        again = generate(
            tiny_cluster.stub, text_request(PROMPT, 24, SamplingParams(temperature=1.2, seed=answer.started.seed))
        )
        assert (again.ids, again.started.seed) == (answer.ids, answer.started.seed)


def test_one_token(tiny_cluster: Cluster) -> None:
    longer = generate(tiny_cluster.stub, text_request(PROMPT, 8))
    answer = generate(tiny_cluster.stub, text_request(PROMPT, 1))
    assert answer.ids == longer.ids[:1]
    assert (answer.finished.reason, answer.finished.timings.steps) == (pb.FINISH_REASON_LENGTH, 1)


def test_prompts_of_all_kinds_are_the_same_tokens(tiny_cluster: Cluster) -> None:
    stub, stops = tiny_cluster.stub, pb.StoppingParams(max_tokens=16, ignore_eos=True)
    text = generate(stub, text_request(PROMPT, 16))
    ids = stub.Tokenize(pb.TokenizeRequest(text=PROMPT)).token_ids
    as_ids = generate(stub, pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids), stopping=stops))
    assert as_ids.ids == text.ids
    chat = pb.ChatMessages(messages=[pb.ChatMessage(role="user", content=PROMPT)])
    chat_ids = stub.Tokenize(pb.TokenizeRequest(chat=chat)).token_ids
    answers = [
        generate(stub, pb.GenerateRequest(chat=chat, stopping=stops)),
        generate(stub, pb.GenerateRequest(token_ids=pb.TokenIds(ids=chat_ids), stopping=stops)),
    ]
    assert answers[0].ids == answers[1].ids != text.ids
    assert answers[0].usage.prompt_tokens == len(chat_ids) > len(ids)


def test_finish_at_the_end_of_the_context(tiny_cluster: Cluster) -> None:
    prompt = pb.TokenIds(ids=random.Random(1).choices(range(256), k=CONTEXT - 6))
    answer = generate(
        tiny_cluster.stub, pb.GenerateRequest(token_ids=prompt, stopping=pb.StoppingParams(ignore_eos=True))
    )
    assert (answer.finished.reason, len(answer.ids)) == (pb.FINISH_REASON_LENGTH, 6)


def test_finish_by_end_of_text(tiny_cluster: Cluster) -> None:
    answer = stopped(tiny_cluster, forced(END_OF_TURN_ID))
    assert (answer.ids, answer.text) == ([], "")
    assert answer.finished.reason == pb.FINISH_REASON_END_OF_TEXT
    assert answer.finished.stop_token_id == END_OF_TURN_ID
    ignored = stopped(tiny_cluster, forced(END_OF_TURN_ID), ignore_eos=True, max_tokens=5)
    assert (ignored.ids, ignored.text) == ([END_OF_TURN_ID] * 5, "")
    assert ignored.finished.reason == pb.FINISH_REASON_LENGTH


def test_finish_by_stop_token(tiny_cluster: Cluster, letters_only: SamplingParams) -> None:
    whole = stopped(tiny_cluster, letters_only)
    stop_id = whole.ids[10]
    answer = stopped(tiny_cluster, letters_only, stop_token_ids=[0, stop_id])
    assert answer.ids == whole.ids[: whole.ids.index(stop_id)]
    assert (answer.finished.reason, answer.finished.stop_token_id) == (pb.FINISH_REASON_STOP_TOKEN, stop_id)
    # A token that the caller named comes before the model's own end.
    both = stopped(tiny_cluster, forced(END_OF_TURN_ID), stop_token_ids=[END_OF_TURN_ID])
    assert both.finished.reason == pb.FINISH_REASON_STOP_TOKEN


@pytest.mark.parametrize("begin, end", [(0, 1), (7, 9), (10, 16), (30, 40)])
def test_finish_by_stop_string(tiny_cluster: Cluster, letters_only: SamplingParams, begin: int, end: int) -> None:
    """Every token is one letter, so a longer string always lies across tokens."""
    whole = stopped(tiny_cluster, letters_only)
    assert set(whole.text) <= set(LETTERS) and len(whole.text) == 40
    stop = whole.text[begin:end]
    answer = stopped(tiny_cluster, letters_only, stop_strings=["never seen", stop])
    assert (answer.finished.reason, answer.finished.stop_string) == (pb.FINISH_REASON_STOP_STRING, stop)
    found = whole.text.index(stop)
    assert answer.text == whole.text[:found]
    assert answer.ids == whole.ids[: found + len(stop)]


def test_text_that_only_begins_a_stop_string_is_returned(tiny_cluster: Cluster, letters_only: SamplingParams) -> None:
    whole = stopped(tiny_cluster, letters_only)
    answer = stopped(tiny_cluster, letters_only, stop_strings=[whole.text[-3:] + "!", whole.text[5:9] + "?"])
    assert (answer.text, answer.ids) == (whole.text, whole.ids)
    assert answer.finished.reason == pb.FINISH_REASON_LENGTH


def test_the_first_rule_wins(tiny_cluster: Cluster, letters_only: SamplingParams) -> None:
    whole = stopped(tiny_cluster, letters_only)
    exact = stopped(tiny_cluster, letters_only, max_tokens=12, stop_strings=[whole.text[:12]])
    assert (exact.finished.reason, exact.text) == (pb.FINISH_REASON_STOP_STRING, "")
    short = stopped(tiny_cluster, letters_only, max_tokens=11, stop_strings=[whole.text[:12]])
    assert (short.finished.reason, short.text) == (pb.FINISH_REASON_LENGTH, whole.text[:11])


def test_usage_and_timings(tiny_cluster: Cluster) -> None:
    prompt = "".join(random.Random(7).choices(LETTERS, k=600))
    first, second = (generate(tiny_cluster.stub, text_request(prompt, 20)) for _ in range(2))
    assert first.usage.cached_prompt_tokens == 0
    assert 500 < second.usage.cached_prompt_tokens < 600 and second.ids == first.ids
    for answer, steps in ((first, 21), (second, 20)):  # the prompt exceeds a chunk of 512
        timings, hops = answer.finished.timings, answer.finished.timings.hops
        assert timings.steps == steps
        parts_ns = timings.tokenize_ns + timings.queue_ns + timings.prefill_ns
        assert 0 < parts_ns <= timings.time_to_first_token_ns <= parts_ns + 50e6
        assert 0 < timings.decode_ns <= timings.total_ns - timings.time_to_first_token_ns
        assert 0 < hops.plan_ns + hops.round_trip_ns + hops.decide_ns <= timings.total_ns
        assert 0 < hops.wire_ns < hops.round_trip_ns
        (rank,) = timings.ranks
        assert rank.compute_ns > 0 and rank.encode_ns > 0 and rank.collective_ns == 0
        assert rank.queue_ns + rank.compute_ns + rank.encode_ns - rank.ahead_ns + hops.wire_ns == hops.round_trip_ns
