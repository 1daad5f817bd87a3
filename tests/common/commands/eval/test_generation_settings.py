"""What a task says about generation: honoured or refused, never ignored."""

from typing import Any

import click
import pytest

from common.commands.eval.generation_settings import GenerationSettings, read_settings
from tandem.v1.sampling_pb2 import SamplingParams

GREEDY = {"do_sample": False, "temperature": 0.0, "max_gen_toks": 8, "until": ["\n"]}


def settings(**fields: Any) -> GenerationSettings:
    return read_settings(GREEDY | fields, seed=5)


def test_greedy_sets_nothing_that_samples() -> None:
    assert settings(top_k=5, top_p=0.5).sampling == SamplingParams()
    assert settings(repetition_penalty=1.25).sampling == SamplingParams(repetition_penalty=1.25)
    assert settings().stopping.max_tokens == 8


def test_sampling_is_passed_on_and_seeded() -> None:
    sampled = settings(do_sample=True, temperature=0.5, top_p=0.5, top_k=3, min_p=0.25).sampling
    assert sampled == SamplingParams(temperature=0.5, top_p=0.5, top_k=3, min_p=0.25, seed=5)
    assert settings(do_sample=True).sampling == SamplingParams(temperature=1.0, seed=5)


@pytest.mark.parametrize("field", [{"num_beams": 4}, {"length_penalty": 0.6}, {"num_return_sequences": 2}])
def test_what_cannot_be_honoured_is_refused_by_name(field: dict[str, Any]) -> None:
    with pytest.raises(click.ClickException, match=next(iter(field))):
        settings(**field)


def test_what_changes_nothing_may_be_there() -> None:
    assert settings(num_beams=1, use_cache=True) == settings()


def test_more_stop_strings_than_a_request_holds() -> None:
    long, many = "x" * 257, [f"stop {number:02}" for number in range(20)]
    both = settings(until=["", long, *many, many[0]])
    assert list(both.stopping.stop_strings) == many[:16]
    assert both.cut(f"a {many[19]} b {many[3]}") == "a "
    assert both.cut(f"a{long}b") == "a"
    assert both.cut("nothing") == "nothing"
