"""Reading sampling parameters, and what they want of the ranks."""

from typing import Any

import pytest

from common.errors import InvalidRequest
from gateway.sampling.params import SamplingParams, read_params
from tandem.v1 import sampling_pb2

VOCABULARY = 100


def message(**fields: Any) -> sampling_pb2.SamplingParams:
    return sampling_pb2.SamplingParams(**fields)


def biases(*pairs: tuple[int, float]) -> list[sampling_pb2.LogitBias]:
    return [sampling_pb2.LogitBias(token_id=token_id, bias=bias) for token_id, bias in pairs]


def test_defaults_are_greedy() -> None:
    params = read_params(message(), None, VOCABULARY, drawn_seed=77)
    assert params == SamplingParams(seed=77)
    assert params.is_greedy and not params.is_truncated and not params.has_penalties


def test_every_field_is_read() -> None:
    params = read_params(
        message(
            temperature=0.5,
            top_k=7,
            top_p=0.25,
            min_p=0.125,
            seed=0,
            repetition_penalty=1.5,
            presence_penalty=-1,
            frequency_penalty=2,
            logit_bias=biases((3, 1.5), (99, -1000)),
        ),
        5,
        VOCABULARY,
        drawn_seed=77,
    )
    assert params == SamplingParams(0.5, 7, 0.25, 0.125, 0, 1.5, -1, 2, {3: 1.5, 99: -1000}, 5)
    assert params.is_truncated and params.has_penalties and not params.is_greedy


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"temperature": -0.5}, "sampling.temperature"),
        ({"temperature": 1e-4}, "sampling.temperature"),
        ({"temperature": 101}, "sampling.temperature"),
        ({"temperature": float("nan")}, "sampling.temperature"),
        ({"top_p": 0}, "sampling.top_p"),
        ({"top_p": 1.5}, "sampling.top_p"),
        ({"top_p": float("nan")}, "sampling.top_p"),
        ({"min_p": -0.1}, "sampling.min_p"),
        ({"min_p": 1.1}, "sampling.min_p"),
        ({"repetition_penalty": 0}, "sampling.repetition_penalty"),
        ({"repetition_penalty": float("inf")}, "sampling.repetition_penalty"),
        ({"presence_penalty": 101}, "sampling.presence_penalty"),
        ({"frequency_penalty": float("nan")}, "sampling.frequency_penalty"),
        ({"logit_bias": biases((100, 1))}, "sampling.logit_bias[0].token_id"),
        ({"logit_bias": biases((1, 1), (1, 2))}, "sampling.logit_bias[1].token_id"),
        ({"logit_bias": biases((1, 1001))}, "sampling.logit_bias[0].bias"),
        ({"logit_bias": biases((1, float("nan")))}, "sampling.logit_bias[0].bias"),
        ({"logit_bias": biases(*[(0, 0.0)] * 1025)}, "sampling.logit_bias"),
    ],
)
def test_out_of_range_names_the_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_params(message(**fields), None, VOCABULARY, 0)
    assert caught.value.field == field


def test_a_top_k_that_keeps_all_is_off() -> None:
    for top_k, expected in ((99, 99), (100, 0), (2**32 - 1, 0)):
        assert read_params(message(temperature=1, top_k=top_k), None, VOCABULARY, 0).top_k == expected


def test_bounds_themselves_are_accepted() -> None:
    params = read_params(message(temperature=0.001, top_p=1, min_p=1, repetition_penalty=100), 20, VOCABULARY, 0)
    assert params.temperature == pytest.approx(0.001) and params.logprobs == 20
    for logprobs in (-1, 21):
        with pytest.raises(InvalidRequest, match="logprobs"):
            read_params(message(), logprobs, VOCABULARY, 0)


@pytest.mark.parametrize(
    ("params", "noised", "top", "raw"),
    [
        (SamplingParams(), 1, 0, 0),
        (SamplingParams(top_k=5, top_p=0.5, logprobs=3), 1, 0, 3),
        (SamplingParams(temperature=1), 1, 0, 0),
        (SamplingParams(temperature=1, logprobs=0), 1, 0, 0),
        (SamplingParams(temperature=1, min_p=0.1), 8, 1, 0),
        (SamplingParams(temperature=1, top_k=40), 8, 40, 0),
        (SamplingParams(temperature=1, top_k=40, top_p=0.9), 8, 40, 0),
        (SamplingParams(temperature=1, top_k=10**9), 8, 1024, 0),
        (SamplingParams(temperature=1, top_p=0.9), 8, 128, 0),
    ],
)
def test_wanted_list_lengths(params: SamplingParams, noised: int, top: int, raw: int) -> None:
    assert (params.num_noised_wanted, params.num_top_wanted(), params.num_raw_wanted) == (noised, top, raw)


def test_top_p_wants_more_after_fallbacks() -> None:
    params = SamplingParams(temperature=1, top_p=0.9)
    assert [params.num_top_wanted(n) for n in range(5)] == [128, 256, 512, 512, 512]
