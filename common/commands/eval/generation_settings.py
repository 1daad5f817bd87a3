"""What a task of lm-evaluation-harness says about generation, as the fields of a GenerateRequest."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from tandem.v1.inference_service_pb2 import StoppingParams
from tandem.v1.sampling_pb2 import SamplingParams

MAX_STOP_STRINGS = 16  # these two are StoppingParams' own
MAX_STOP_STRING_BYTES = 256

# What transformers calls them, and what they must be where they would change what we generate.
_ALWAYS = {"num_beams": 1, "num_return_sequences": 1}
_WITHOUT_EFFECT = {"do_sample", "until", "max_gen_toks", "temperature", "use_cache"}
_PASSED_ON = ("top_k", "top_p", "min_p", "repetition_penalty")


@dataclass(frozen=True)
class GenerationSettings:
    """How one prompt is continued. Text ends before the first of `until`, which may be more than a request can hold."""

    until: tuple[str, ...]
    max_tokens: int
    sampling: SamplingParams

    @property
    def stopping(self) -> StoppingParams:
        """What the gateway is told: as many stop strings as it takes. `cut` does the rest."""
        short = [text for text in self.until if len(text.encode()) <= MAX_STOP_STRING_BYTES]
        return StoppingParams(max_tokens=self.max_tokens, stop_strings=short[:MAX_STOP_STRINGS])

    def cut(self, text: str) -> str:
        """Return `text` up to the first stop string in it."""
        return text[: min((at for stop in self.until if (at := text.find(stop)) >= 0), default=len(text))]


def read_settings(fields: Mapping[str, Any], seed: int) -> GenerationSettings:
    """Return the settings that `fields` state: those of lm_eval.models.utils.normalize_gen_kwargs.

    `seed` fixes the draws where the task samples at all. Raises click.ClickException for a key that would be ignored.
    """
    unknown = set(fields) - _WITHOUT_EFFECT - set(_ALWAYS) - set(_PASSED_ON)
    unknown |= {name for name, value in _ALWAYS.items() if fields.get(name, value) != value}
    if unknown:
        raise click.ClickException(f"a task's generation setting cannot be honoured: {', '.join(sorted(unknown))}")
    sampling = SamplingParams()
    if fields["do_sample"]:
        chosen = {name: fields[name] for name in _PASSED_ON if fields.get(name) is not None}
        sampling = SamplingParams(temperature=fields.get("temperature") or 1.0, seed=seed, **chosen)
    elif fields.get("repetition_penalty") is not None:
        sampling.repetition_penalty = fields["repetition_penalty"]
    return GenerationSettings(
        until=tuple(dict.fromkeys(text for text in fields["until"] if text)),
        max_tokens=fields["max_gen_toks"],
        sampling=sampling,
    )
