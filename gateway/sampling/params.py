"""How one request's tokens are drawn, and what its draws need of the ranks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

from common.errors import InvalidRequest
from tandem.v1 import sampling_pb2

MAX_LOGPROBS = 20
MAX_LOGIT_BIASES = 1024
_NOISED_FOR_TRUNCATION = 8
_TOP_FOR_TOP_K = 1024  # at most; a larger k is left to the fallback where a draw needs to know
_TOP_FOR_TOP_P = (128, 256, 512)  # by number of fallbacks


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Resolved sampling parameters (tandem.v1.SamplingParams says what each does).

    seed is a u64, drawn where the request had none. logprobs: None reports none, n the token's own and n
    alternatives.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature == 0

    @property
    def has_penalties(self) -> bool:
        """Whether the ranks need the sequence's history."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    @property
    def is_truncated(self) -> bool:
        """Whether some tokens may not be drawn at all."""
        return not self.is_greedy and (self.top_k > 0 or self.top_p < 1 or self.min_p > 0)

    @property
    def is_plain(self) -> bool:
        """Whether the best token by noised score is all there is to know of each position."""
        return self.logprobs is None and not self.is_truncated

    @property
    def num_noised_wanted(self) -> int:
        """Plan.num_noised that this sequence wants: with truncation, the best token may be cut."""
        return _NOISED_FOR_TRUNCATION if self.is_truncated else 1

    @property
    def num_raw_wanted(self) -> int:
        """Plan.num_raw that this sequence wants."""
        return self.logprobs or 0

    def num_top_wanted(self, num_fallbacks: int = 0) -> int:
        """Return Plan.num_top that this sequence wants, after it fell back to whole slices `num_fallbacks`
        times.

        top_k must know the k best; min_p alone, the best; top_p starts with 128 and doubles with each
        fallback.
        """
        if not self.is_truncated:
            return 0
        if self.top_k > 0:
            return min(self.top_k, _TOP_FOR_TOP_K)
        if self.top_p < 1:
            return _TOP_FOR_TOP_P[min(num_fallbacks, len(_TOP_FOR_TOP_P) - 1)]
        return 1


def read_params(
    message: sampling_pb2.SamplingParams, logprobs: int | None, vocabulary_size: int, drawn_seed: int
) -> SamplingParams:
    """Return the parameters that a request asks for; `drawn_seed` (u64) is used where it has no seed.

    Raises InvalidRequest when a field is out of its range.
    """
    temperature = message.temperature if message.HasField("temperature") else 0.0
    top_p = message.top_p if message.HasField("top_p") else 1.0
    repetition = message.repetition_penalty if message.HasField("repetition_penalty") else 1.0
    _require(temperature == 0 or 0.001 <= temperature <= 100, "temperature", "must be 0, or 0.001 to 100")
    _require(0 < top_p <= 1, "top_p", "must be above 0 and at most 1")
    _require(0 <= message.min_p <= 1, "min_p", "must lie in 0 to 1")
    _require(0 < repetition <= 100, "repetition_penalty", "must be above 0 and at most 100")
    _require(-100 <= message.presence_penalty <= 100, "presence_penalty", "must lie in -100 to 100")
    _require(-100 <= message.frequency_penalty <= 100, "frequency_penalty", "must lie in -100 to 100")
    if logprobs is not None and not 0 <= logprobs <= MAX_LOGPROBS:
        raise InvalidRequest("logprobs", f"must lie in 0 to {MAX_LOGPROBS}")
    return SamplingParams(
        temperature=temperature,
        top_k=message.top_k if message.top_k < vocabulary_size else 0,
        top_p=top_p,
        min_p=message.min_p,
        seed=message.seed if message.HasField("seed") else drawn_seed,
        repetition_penalty=repetition,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        logit_bias=_read_biases(message, vocabulary_size),
        logprobs=logprobs,
    )


def _read_biases(message: sampling_pb2.SamplingParams, vocabulary_size: int) -> dict[int, float]:
    entries = message.logit_bias
    _require(len(entries) <= MAX_LOGIT_BIASES, "logit_bias", f"has more than {MAX_LOGIT_BIASES:,} entries")
    biases: dict[int, float] = {}
    for index, entry in enumerate(entries):
        name = f"logit_bias[{index}]"
        _require(entry.token_id < vocabulary_size, f"{name}.token_id", f"must be below {vocabulary_size}")
        _require(entry.token_id not in biases, f"{name}.token_id", "is given twice")
        _require(isfinite(entry.bias) and abs(entry.bias) <= 1000, f"{name}.bias", "must lie in -1000 to 1000")
        biases[entry.token_id] = entry.bias
    return biases


def _require(holds: bool, field_name: str, description: str) -> None:
    if not holds:
        raise InvalidRequest(f"sampling.{field_name}", description)
