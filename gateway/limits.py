"""Every bound on a request, in one place."""

from dataclasses import dataclass

MAX_REQUEST_ID_CHARS = 128
MAX_CHAT_MESSAGES = 1024
MAX_STOP_STRINGS = 16
MAX_STOP_STRING_BYTES = 256
MAX_STOP_TOKEN_IDS = 64
MAX_LOGPROBS = 20
MIN_TEMPERATURE = 0.001
MAX_TEMPERATURE = 100.0
MAX_REPETITION_PENALTY = 100.0
MAX_PENALTY = 100.0
MAX_LOGIT_BIAS_ENTRIES = 1024
MAX_LOGIT_BIAS = 1000.0


@dataclass(frozen=True)
class ModelLimits:
    """Bounds that depend on the model and the ranks that serve it."""

    name: str
    vocabulary_size: int
    context_length: int
    max_new_tokens: int
