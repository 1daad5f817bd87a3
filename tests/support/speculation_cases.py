"""Requests of every kind whose answers drafts must not change, and what two answers must have in common."""

import random
from collections.abc import Mapping
from typing import Any

from tandem.v1 import inference_service_pb2 as pb
from tandem.v1.sampling_pb2 import LogitBias, SamplingParams
from tests.support.answers import Answer

NUM_TOKENS = 40
TEMPERATURES = (0.0, 0.8, 1.2)
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "penalised": {"repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.3},
    "biased": {
        # Few ids are left, so that the text repeats itself.
        "logit_bias": [LogitBias(token_id=65 + index, bias=100.0 + index / 2) for index in range(4)],
        "top_k": 3,
        "top_p": 0.95,
    },
}
Requests = dict[str, pb.GenerateRequest]
Answers = Mapping[str, Answer]


def plain_requests() -> Requests:
    """Return requests that only max_tokens ends, each with a prompt of its own, which repeats itself."""
    requests: Requests = {}
    for kind, fields in KINDS.items():
        for temperature in TEMPERATURES:
            draw = random.Random(len(requests))
            phrase = [draw.randrange(256) for _ in range(9)]
            sampling = SamplingParams(temperature=temperature, seed=len(requests) + 1, **fields)
            requests[f"{kind}, T={temperature:g}"] = _request([*phrase, 7, *phrase, 8, *phrase], sampling)
    return requests


def ended_requests(requests: Requests, answers: Answers) -> Requests:
    """Return the same requests with rules that end them earlier, somewhere within what is known of their answers."""
    ended: Requests = {}
    for name, request in requests.items():
        ids, text = answers[name].ids, answers[name].text
        draw = random.Random(name)
        max_tokens = draw.randrange(1, 12)
        ended[f"{name}, {max_tokens} tokens"] = _request(request.token_ids.ids, request.sampling, max_tokens)
        place = draw.randrange(6, NUM_TOKENS - 6)
        ended[f"{name}, stop id"] = _request(request.token_ids.ids, request.sampling, stop_token_ids=[ids[place]])
        place = draw.randrange(len(text) // 4, len(text) - 3)
        ended[f"{name}, stop string"] = _request(
            request.token_ids.ids, request.sampling, stop_strings=[text[place : place + 2]]
        )
    return ended


def assert_same(answer: Answer, expected: Answer, name: str) -> None:
    """Assert that two answers cannot be told apart, timings and drafts aside."""
    assert answer.ids == expected.ids, name
    assert answer.text == expected.text, name
    ours, theirs = answer.finished, expected.finished
    assert (ours.reason, ours.stop_string, ours.stop_token_id) == (
        theirs.reason,
        theirs.stop_string,
        theirs.stop_token_id,
    ), name
    assert answer.usage.completion_tokens == expected.usage.completion_tokens, name
    assert _logprob_ids(answer) == _logprob_ids(expected), name
    assert all(abs(a.logprob - b.logprob) < 1e-3 for a, b in zip(answer.logprobs, expected.logprobs, strict=True)), name


def _request(ids: Any, sampling: SamplingParams, max_tokens: int = NUM_TOKENS, **rules: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=ids),
        sampling=sampling,
        stopping=pb.StoppingParams(max_tokens=max_tokens, ignore_eos=True, **rules),
        logprobs=3,
    )


def _logprob_ids(answer: Answer) -> list[list[int]]:
    return [list(token.top_ids) for token in answer.logprobs]
