"""The same request gives the same tokens and the same text, whatever runs beside it and however it is computed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tandem.v1 import inference_service_pb2 as pb
from tandem.v1.sampling_pb2 import SamplingParams
from tests.support.answers import Answer, generate, generate_all, text_request
from tests.support.cluster import Cluster, running_cluster

NUM_TOKENS = 32
# Longer than the largest chunk that the cases set, but for "whole prompt at once".
PROMPT = "Tell a story. " + "The quick brown fox jumps over the lazy dog, and the dog does not mind at all. " * 5
OTHERS = [
    "Count: 1, 2, 3,",
    "def add(a, b):",
    "Once upon a time",
    PROMPT[:200],
    "Bonjour",
    "1+1=",
    "The sea",
    "Q: Why?",
]
SAMPLINGS = {
    "greedy": SamplingParams(),
    "seeded": SamplingParams(temperature=0.8, top_p=0.95, seed=20_240_229),
}
Answers = dict[str, Answer]


@contextmanager
def cluster_of(model: Path, **settings: Any) -> Iterator[Cluster]:
    """Run the embedded model; chunks are as large as they may be, whatever that costs running streams."""
    defaults = {"dtype": "float32", "kv_cache_tokens": 4096, "decode_slowdown_limit": 1e6}
    with running_cluster(model=model, threads=None, **(defaults | settings)) as cluster:
        yield cluster


def asked() -> list[pb.GenerateRequest]:
    return [text_request(PROMPT, NUM_TOKENS, sampling, logprobs=1) for sampling in SAMPLINGS.values()]


def assert_same(answers: list[Answer], reference: Answers) -> None:
    for (name, expected), answer in zip(reference.items(), answers, strict=False):
        assert answer.ids == expected.ids, name
        assert answer.text == expected.text, name
        assert answer.finished.reason == pb.FINISH_REASON_LENGTH


def among_others(cluster: Cluster) -> list[Answer]:
    """Return the two streams' answers when eight others run beside them, sampled in all manners."""
    others = [
        text_request(text, NUM_TOKENS, SamplingParams(temperature=0.5 * (index % 3), top_k=index, seed=index))
        for index, text in enumerate(OTHERS)
    ]
    answers = generate_all(cluster.stub, [*asked(), *others])
    # They did run together: in fewer steps than one after the other would take.
    assert max(answer.finished.timings.steps for answer in answers) < 4 * NUM_TOKENS
    return answers[: len(SAMPLINGS)]


@pytest.fixture(scope="module")
def reference(embedded_model: Path) -> Answers:
    """Both streams, each alone, without prefix reuse, the prompt in one chunk."""
    with cluster_of(embedded_model, max_prefill_chunk_tokens=512, prefix_reuse=False) as cluster:
        answers = {name: generate(cluster.stub, request) for name, request in zip(SAMPLINGS, asked(), strict=True)}
        for answer in answers.values():
            decoded = cluster.stub.Detokenize(pb.DetokenizeRequest(token_ids=answer.ids))
            assert decoded.text == answer.text
            assert answer.usage.cached_prompt_tokens == 0
            assert answer.finished.timings.ranks[0].ahead_ns > 0
        assert_same(among_others(cluster), answers)
    assert answers["greedy"].ids != answers["seeded"].ids
    return answers


def test_chunks_of_16_and_shared_prefixes(embedded_model: Path, reference: Answers) -> None:
    with cluster_of(embedded_model, max_prefill_chunk_tokens=16) as cluster:
        first = generate_all(cluster.stub, asked())
        assert_same(first, reference)
        # Prompt in chunks of 16 ids (beside it, the other stream's), then a step for each further token.
        assert first[0].finished.timings.steps >= first[0].usage.prompt_tokens // 16 + NUM_TOKENS - 1
        again = among_others(cluster)
    assert_same(again, reference)
    assert all(answer.usage.cached_prompt_tokens >= 64 for answer in again)


def test_chunks_of_64_and_frames_of_a_token_without_prefix_reuse(embedded_model: Path, reference: Answers) -> None:
    settings = {"max_prefill_chunk_tokens": 64, "prefix_reuse": False, "gateway": "max_tokens_per_frame=1"}
    with cluster_of(embedded_model, **settings) as cluster:
        alone = [generate(cluster.stub, request) for request in asked()]
        together = generate_all(cluster.stub, asked())
    assert_same(alone, reference)
    assert_same(together, reference)
    assert all(answer.finished.timings.frames == answer.finished.timings.steps for answer in alone)


def test_preemption(embedded_model: Path, reference: Answers) -> None:
    """Streams that do not fit together are computed again, and nobody can tell from the tokens."""
    prompt_tokens = reference["greedy"].usage.prompt_tokens
    # Room for the prompts of all four but not for their answers: the youngest must give way.
    room = 4 * (-(-prompt_tokens // 16) * 16 + 16) + 16
    with cluster_of(embedded_model, kv_cache_tokens=room, prefix_reuse=False) as cluster:
        answers = generate_all(cluster.stub, asked() + asked())
    assert_same(answers[:2], reference)
    assert_same(answers[2:], reference)
    assert sum(answer.usage.preemptions for answer in answers) > 0


@pytest.mark.parametrize("tp", [1, 2])
def test_ranks_that_wait_for_every_frame(embedded_model: Path, reference: Answers, tp: int) -> None:
    """All other clusters here run ahead."""
    with cluster_of(embedded_model, tp=tp, gateway="run_ahead=off") as cluster:
        answers = among_others(cluster)
    assert_same(answers, reference)
    assert not any(rank.ahead_ns for answer in answers for rank in answer.finished.timings.ranks)


def test_two_ranks(embedded_model: Path, reference: Answers) -> None:
    """Frames are of up to four tokens, however long they become; other clusters draw as many as they find useful."""
    frames = ("max_tokens_per_frame=4", "max_frame_ms=1e5")
    with cluster_of(embedded_model, tp=2, max_prefill_chunk_tokens=64, gateway=frames) as cluster:
        assert_same([generate(cluster.stub, request) for request in asked()], reference)
        again = among_others(cluster)
        assert all(answer.usage.cached_prompt_tokens > 0 for answer in again)
        assert_same(again, reference)
