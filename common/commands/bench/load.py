"""What load is put on the gateway: who sends when, and how long prompts and answers are."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tandem.v1.inference_service_pb2 import GenerateRequest, StoppingParams, TokenIds
from tandem.v1.sampling_pb2 import SamplingParams


class Lengths(NamedTuple):
    """A range of lengths in tokens, drawn from evenly; both ends belong to it."""

    least: int
    most: int

    def __str__(self) -> str:
        return str(self.least) if self.least == self.most else f"{self.least}-{self.most}"


@dataclass(frozen=True)
class ClosedLoop:
    """`streams` clients, each sending its next request when its last is answered."""

    streams: int

    def __str__(self) -> str:
        return f"{self.streams} stream{'s' if self.streams > 1 else ''}"


@dataclass(frozen=True)
class OpenLoop:
    """Requests arrive at random (a Poisson process) `rate_per_s` times a second, answered or not."""

    rate_per_s: float

    def __str__(self) -> str:
        return f"{self.rate_per_s:g}/s"


Load = ClosedLoop | OpenLoop


@dataclass(frozen=True)
class Work:
    """What each request asks for. Every answer has the length that was asked for: end-of-text is ignored.

    `salt` makes prompts of one run differ from those of another, which a prefix cache may still hold.
    """

    prompt_tokens: Lengths
    output_tokens: Lengths
    vocabulary_size: int
    temperature: float
    salt: str

    def requests(self, load: str) -> Iterator[GenerateRequest]:
        """Yield requests without end, each with a prompt of its own. The same salt and load give the same ones."""
        draw = random.Random(f"{self.salt}/{load}")
        while True:
            length = draw.randint(*self.prompt_tokens)
            yield GenerateRequest(
                token_ids=TokenIds(ids=draw.choices(range(self.vocabulary_size), k=length)),
                sampling=SamplingParams(temperature=self.temperature, seed=draw.getrandbits(32)),
                stopping=StoppingParams(max_tokens=draw.randint(*self.output_tokens), ignore_eos=True),
            )


def arrival_offsets_s(rate_per_s: float, seed: int) -> Iterator[float]:
    """Yield when requests arrive, in seconds after the start: a Poisson process, so the gaps are exponential.

    The same seed gives the same arrivals.
    """
    draw = random.Random(f"arrivals/{seed}")
    offset_s = 0.0
    while True:
        offset_s += draw.expovariate(rate_per_s)
        yield offset_s
