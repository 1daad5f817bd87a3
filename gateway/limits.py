"""Every bound on a request, in one place."""

from dataclasses import dataclass

MAX_REQUEST_ID_CHARS = 128
MAX_CHAT_MESSAGES = 1024
MAX_STOP_STRINGS = 16
MAX_STOP_STRING_BYTES = 256
MAX_STOP_TOKEN_IDS = 64
MAX_DRAFT_TOKENS = 8


@dataclass(frozen=True)
class ModelLimits:
    """Bounds that depend on the model and the ranks that serve it."""

    name: str
    vocabulary_size: int
    context_length: int
    max_new_tokens: int
