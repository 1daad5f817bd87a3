"""Score: the model's own opinion of a text, against transformers' on the same weights."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tandem.v1 import inference_service_pb2 as pb
from tests.support.cluster import Cluster
from tests.support.reference import load_reference, reference_logits

TEXT = "Paris is the capital of France, and Berlin is the capital of Germany. 1, 2, 3, 4, 5, banana!"
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def expected_TV(smollm_cluster: Cluster, embedded_model: Path) -> npt.NDArray[np.float64]:
    """transformers' log-probabilities at every position of TEXT."""
    ids = smollm_cluster.stub.Tokenize(pb.TokenizeRequest(text=TEXT)).token_ids
    logits = reference_logits(load_reference(embedded_model), list(ids)).double().numpy()
    return np.asarray(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))


@pytest.mark.parametrize("top, first", [(0, 0), (5, 0), (20, 7)])
def test_score_against_transformers(
    smollm_cluster: Cluster, expected_TV: npt.NDArray[np.float64], top: int, first: int
) -> None:
    answer = smollm_cluster.stub.Score(pb.ScoreRequest(text=TEXT, top_logprobs=top, first_position=first), timeout=120)
    ids = list(answer.token_ids)
    assert answer.first_position == max(first, 1)
    assert len(answer.logprobs) == len(answer.is_greedy) == len(ids) - answer.first_position
    for position, entry in enumerate(answer.logprobs, answer.first_position):
        before_V = expected_TV[position - 1]
        assert entry.logprob == pytest.approx(before_V[ids[position]], abs=TOLERANCE)
        assert list(entry.top_logprobs) == pytest.approx(np.sort(before_V)[::-1][:top], abs=TOLERANCE)
        assert list(entry.top_logprobs) == pytest.approx(before_V[list(entry.top_ids)], abs=TOLERANCE)
        greedy = answer.is_greedy[position - answer.first_position]
        assert greedy == (ids[position] == before_V.argmax())
    assert {True, False} == set(answer.is_greedy)


def test_text_and_ids_score_alike(smollm_cluster: Cluster) -> None:
    by_text = smollm_cluster.stub.Score(pb.ScoreRequest(text=TEXT), timeout=120)
    ids = pb.TokenIds(ids=by_text.token_ids)
    by_ids = smollm_cluster.stub.Score(pb.ScoreRequest(token_ids=ids), timeout=120)
    # The second one begins behind shared prefix blocks and is computed in other chunks.
    assert [e.logprob for e in by_ids.logprobs] == pytest.approx([e.logprob for e in by_text.logprobs], abs=TOLERANCE)
    assert by_ids.timings.steps >= 1 and len(by_ids.timings.ranks) == 1


def test_the_first_token_has_no_entry(smollm_cluster: Cluster) -> None:
    one = smollm_cluster.stub.Score(pb.ScoreRequest(token_ids=pb.TokenIds(ids=[42])), timeout=120)
    assert (list(one.token_ids), list(one.logprobs), list(one.is_greedy)) == ([42], [], [])
    two = smollm_cluster.stub.Score(pb.ScoreRequest(token_ids=pb.TokenIds(ids=[42, 42])), timeout=120)
    assert (two.first_position, len(two.logprobs)) == (1, 1)
