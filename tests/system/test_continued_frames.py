"""Streams do not depend on how many tokens a frame may draw, however they are drawn and wherever they end."""

from collections.abc import Iterator
from typing import Any

import pytest

from tandem.v1 import inference_service_pb2 as pb
from tandem.v1.sampling_pb2 import LogitBias, SamplingParams
from tests.support.answers import Answer, generate, generate_all
from tests.support.cluster import Cluster, running_cluster
from tests.support.tiny_model import TinyModel

NUM_TOKENS = 49
SAMPLINGS = {
    "greedy": SamplingParams(),
    "drawn": SamplingParams(temperature=1.0, seed=1),
    "nucleus": SamplingParams(temperature=0.8, top_p=0.9, seed=2),
    "few": SamplingParams(temperature=1.2, top_k=3, min_p=0.05, seed=3),
    "penalties": SamplingParams(
        temperature=0.7, seed=4, frequency_penalty=0.6, presence_penalty=0.3, repetition_penalty=1.3
    ),
    "greedy penalties": SamplingParams(repetition_penalty=1.8),
    "biased": SamplingParams(temperature=0.9, seed=5, logit_bias=[LogitBias(token_id=65, bias=3.0)]),
}


def request(sampling: SamplingParams, max_tokens: int = NUM_TOKENS, **stopping: Any) -> pb.GenerateRequest:
    stops = pb.StoppingParams(max_tokens=max_tokens, ignore_eos=True, **stopping)
    return pb.GenerateRequest(text="Once upon a time", sampling=sampling, stopping=stops)


@pytest.fixture(scope="module", params=[1, 2], ids=["tp1", "tp2"])
def clusters(request: pytest.FixtureRequest, tiny_model: TinyModel) -> Iterator[tuple[Cluster, Cluster]]:
    """One that draws a token a frame, and one that draws up to 4, however long frames become."""
    common = {"model": tiny_model.folder, "dtype": "float32", "kv_cache_tokens": 8192, "tp": request.param}
    with (
        running_cluster(gateway="max_tokens_per_frame=1", **common) as one,
        running_cluster(gateway=("max_tokens_per_frame=4", "max_frame_ms=100000"), **common) as four,
    ):
        yield one, four


def assert_same(answers: list[Answer], expected: list[Answer]) -> None:
    for answer, other in zip(answers, expected, strict=True):
        assert (answer.ids, answer.text) == (other.ids, other.text)
        assert (answer.finished.reason, answer.finished.stop_string) == (
            other.finished.reason,
            other.finished.stop_string,
        )
        assert answer.usage.completion_tokens == other.usage.completion_tokens == len(answer.ids)
        assert other.finished.timings.frames == other.finished.timings.steps


def test_one_after_the_other(clusters: tuple[Cluster, Cluster]) -> None:
    requests = [request(sampling) for sampling in SAMPLINGS.values()]
    expected, answers = ([generate(cluster.stub, asked) for asked in requests] for cluster in clusters)
    assert_same(answers, expected)
    # Each frame's first token is drawn for sure, so there are more steps than tokens where others were dropped.
    assert all(answer.finished.timings.steps >= NUM_TOKENS for answer in answers)
    greedy = answers[0].finished.timings
    assert greedy.frames < greedy.steps == NUM_TOKENS
    assert len({tuple(answer.ids) for answer in answers}) > 4


def test_together(clusters: tuple[Cluster, Cluster]) -> None:
    requests = [request(sampling, NUM_TOKENS + 3 * index) for index, sampling in enumerate(SAMPLINGS.values())]
    expected, answers = (generate_all(cluster.stub, requests) for cluster in clusters)
    assert_same(answers, expected)


@pytest.mark.parametrize("name", ["greedy", "drawn", "penalties"])
def test_ends_in_every_place_of_a_frame(clusters: tuple[Cluster, Cluster], name: str) -> None:
    one, four = clusters
    whole = generate(one.stub, request(SAMPLINGS[name]))
    by_length = [request(SAMPLINGS[name], count) for count in range(5, 13)]
    by_token = [request(SAMPLINGS[name], stop_token_ids=[token_id]) for token_id in sorted(set(whole.ids[4:12]))]
    pieces = {whole.text[start : start + 3] for start in range(4, 12)} - {""}
    by_text = [request(SAMPLINGS[name], stop_strings=[piece]) for piece in sorted(pieces)]
    requests = by_length + by_token + by_text
    expected, answers = ([generate(cluster.stub, asked) for asked in requests] for cluster in clusters)
    assert_same(answers, expected)
    assert [len(answer.ids) for answer in answers[: len(by_length)]] == [*range(5, 13)]
    reasons = {answer.finished.reason for answer in answers}
    assert reasons == {pb.FINISH_REASON_LENGTH, pb.FINISH_REASON_STOP_TOKEN, pb.FINISH_REASON_STOP_STRING}
    # What was cut off left nothing behind that a longer prompt could take for its own.
    longer = pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=whole.ids), sampling=SAMPLINGS[name], stopping=pb.StoppingParams(max_tokens=9)
    )
    assert generate(four.stub, longer).ids == generate(one.stub, longer).ids
