"""When a stream ends: the rules of one request, and which of them fired."""

from dataclasses import dataclass
from enum import Enum


class FinishReason(Enum):
    """Which rule ended a stream."""

    LENGTH = "length"
    END_OF_TEXT = "end_of_text"
    STOP_TOKEN = "stop_token"
    STOP_STRING = "stop_string"


@dataclass(frozen=True)
class StopRules:
    """The stop rules of one request. `end_of_text_ids` is empty when the request ignores them."""

    max_new_tokens: int
    end_of_text_ids: frozenset[int]
    stop_token_ids: frozenset[int]
    stop_strings: tuple[str, ...]

    def token_ends(self, token_id: int) -> FinishReason | None:
        """Return the reason when this token by itself ends the stream (and is not returned)."""
        if token_id in self.stop_token_ids:
            return FinishReason.STOP_TOKEN
        return FinishReason.END_OF_TEXT if token_id in self.end_of_text_ids else None


@dataclass(frozen=True)
class Finish:
    """How a stream ended."""

    reason: FinishReason
    stop_string: str = ""
    stop_token_id: int | None = None
