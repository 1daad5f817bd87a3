"""What a request's sampling parameters do to its tokens, against the reference's logits."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from tandem.v1 import inference_service_pb2 as pb
from tandem.v1.sampling_pb2 import LogitBias, SamplingParams
from tests.support.answers import Answer, generate, text_request
from tests.support.cluster import Cluster
from tests.support.reference import reference_logits
from tests.support.tiny_model import TinyModel

Doubles = npt.NDArray[np.float64]

PROMPT = "abracadabra"
NUM_TOKENS = 32


def logits_of(model: TinyModel, prompt: str, ids: Sequence[int], cluster: Cluster) -> tuple[list[int], Doubles]:
    """Return the prompt's ids and the reference's logits, float64[len(ids), V], from which each id was drawn."""
    prompt_ids = list(cluster.stub.Tokenize(pb.TokenizeRequest(text=prompt)).token_ids)
    logits_TV = reference_logits(model.reference, [*prompt_ids, *ids]).double().numpy()
    return prompt_ids, logits_TV[len(prompt_ids) - 1 : -1]


def log_softmax(logits: Doubles) -> Doubles:
    """Return the log-probabilities along the last axis."""
    return np.asarray(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))


def processed(logits_V: Doubles, prompt: Sequence[int], answer: Sequence[int], sampling: SamplingParams) -> Doubles:
    """Apply penalties and biases as sampling.proto says, to the logits after `prompt` and `answer`."""
    out = logits_V.copy()
    repetition = sampling.repetition_penalty if sampling.HasField("repetition_penalty") else 1.0
    for token_id in {*prompt, *answer}:
        out[token_id] = out[token_id] / repetition if out[token_id] > 0 else out[token_id] * repetition
    for token_id in set(answer):
        out[token_id] -= sampling.presence_penalty + sampling.frequency_penalty * list(answer).count(token_id)
    for entry in sampling.logit_bias:
        out[entry.token_id] += entry.bias
    return out


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(),
        SamplingParams(repetition_penalty=1.7),
        SamplingParams(repetition_penalty=0.8),
        SamplingParams(presence_penalty=3.0),
        SamplingParams(frequency_penalty=1.5),
        SamplingParams(frequency_penalty=-2.0, repetition_penalty=1.2, presence_penalty=0.5),
        SamplingParams(logit_bias=[LogitBias(token_id=i, bias=2.0) for i in range(40)], frequency_penalty=0.7),
    ],
    ids=["none", "repetition", "negative repetition", "presence", "frequency", "all", "bias"],
)
def test_greedy_tokens_are_the_best_processed_logits(
    tiny_cluster: Cluster, tiny_model: TinyModel, sampling: SamplingParams
) -> None:
    plain = generate(tiny_cluster.stub, text_request(PROMPT, NUM_TOKENS))
    answer = generate(tiny_cluster.stub, text_request(PROMPT, NUM_TOKENS, sampling))
    prompt_ids, logits = logits_of(tiny_model, PROMPT, answer.ids, tiny_cluster)
    for index, token_id in enumerate(answer.ids):
        scores = processed(logits[index], prompt_ids, answer.ids[:index], sampling)
        assert scores[token_id] >= scores.max() - 1e-4, (index, token_id, int(scores.argmax()))
    assert (answer.ids == plain.ids) == (sampling == SamplingParams())


def test_biases_force_and_ban(tiny_cluster: Cluster) -> None:
    plain = generate(tiny_cluster.stub, text_request(PROMPT, 16))
    forced = SamplingParams(logit_bias=[LogitBias(token_id=262, bias=1000.0)])
    assert generate(tiny_cluster.stub, text_request(PROMPT, 16, forced)).ids == [262] * 16
    warm = SamplingParams(temperature=2.0, seed=1, logit_bias=forced.logit_bias)
    assert generate(tiny_cluster.stub, text_request(PROMPT, 16, warm)).ids == [262] * 16
    banned = SamplingParams(logit_bias=[LogitBias(token_id=plain.ids[0], bias=-1000.0)])
    assert plain.ids[0] not in generate(tiny_cluster.stub, text_request(PROMPT, 16, banned)).ids


@pytest.mark.parametrize("num_top", [0, 5, 20])
def test_logprobs_are_the_models_own(tiny_cluster: Cluster, tiny_model: TinyModel, num_top: int) -> None:
    """Before penalties, bias and temperature; equal to the reference's, and to what Score says of the same ids."""
    sampling = SamplingParams(temperature=1.5, seed=9, frequency_penalty=1.0, top_k=50)
    sampling.logit_bias.append(LogitBias(token_id=5, bias=3.0))
    answer = generate(tiny_cluster.stub, text_request(PROMPT, NUM_TOKENS, sampling, logprobs=num_top))
    prompt_ids, logits = logits_of(tiny_model, PROMPT, answer.ids, tiny_cluster)
    expected = log_softmax(logits)
    assert len(answer.logprobs) == NUM_TOKENS
    for index, entry in enumerate(answer.logprobs):
        assert entry.logprob == pytest.approx(expected[index, answer.ids[index]], abs=1e-3)
        assert_top(entry, expected[index], num_top)
    whole = pb.TokenIds(ids=[*prompt_ids, *answer.ids])
    scored = tiny_cluster.stub.Score(pb.ScoreRequest(token_ids=whole, first_position=len(prompt_ids)))
    own = [entry.logprob for entry in answer.logprobs]
    assert own == pytest.approx([entry.logprob for entry in scored.logprobs], abs=1e-3)


def assert_top(entry: pb.TokenLogprobs, expected_V: Doubles, num_top: int) -> None:
    """Check that the alternatives are the most likely tokens, most likely first."""
    assert len(entry.top_ids) == len(entry.top_logprobs) == num_top
    best = np.sort(expected_V)[::-1][:num_top]
    assert list(entry.top_logprobs) == pytest.approx(best, abs=1e-3)
    assert list(entry.top_logprobs) == pytest.approx(expected_V[list(entry.top_ids)], abs=1e-3)
    assert len(set(entry.top_ids)) == num_top


def top_k_answer(cluster: Cluster, **sampling: float) -> Answer:
    return generate(cluster.stub, text_request(PROMPT, NUM_TOKENS, SamplingParams(seed=4, **sampling), logprobs=20))  # type: ignore[arg-type]


def test_truncation_keeps_to_the_best_tokens(tiny_cluster: Cluster) -> None:
    for answer, allowed in (
        (top_k_answer(tiny_cluster, temperature=5.0, top_k=3), 3),
        (top_k_answer(tiny_cluster, temperature=5.0, top_k=1), 1),
        (top_k_answer(tiny_cluster, temperature=0.5, top_p=1e-6), 1),
        (top_k_answer(tiny_cluster, temperature=0.5, min_p=1.0), 1),
    ):
        places = [list(e.top_ids).index(i) for i, e in zip(answer.ids, answer.logprobs, strict=True)]
        assert max(places) == allowed - 1
    free = top_k_answer(tiny_cluster, temperature=5.0)
    assert any(i not in e.top_ids for i, e in zip(free.ids, free.logprobs, strict=True))
    # At a high temperature the nucleus is wide, so the records do not always decide; nor may that change the draw.
    nucleus = [top_k_answer(tiny_cluster, temperature=20.0, top_p=0.9).ids for _ in range(2)]
    assert nucleus[0] == nucleus[1]
