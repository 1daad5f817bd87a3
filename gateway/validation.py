"""What a caller sent, checked field by field. Everything behind this file can trust its numbers."""

import secrets
from collections.abc import Iterable

from common.errors import InvalidRequest, NotFound
from gateway import limits
from gateway.chat.message import ChatMessage
from gateway.limits import ModelLimits
from gateway.sampling.params import MAX_LOGPROBS, SamplingParams, read_params
from gateway.stopping import StopRules
from tandem.v1 import inference_service_pb2 as pb
from tandem.v1 import sampling_pb2


def check_model(name: str, model: ModelLimits) -> None:
    """Raise NotFound when the request names another model."""
    if name not in ("", model.name):
        raise NotFound(f"the served model is {model.name!r}")


def request_id(value: str) -> str:
    """Return the caller's request id, or a new one."""
    if len(value) > limits.MAX_REQUEST_ID_CHARS:
        raise InvalidRequest("request_id", f"at most {limits.MAX_REQUEST_ID_CHARS} characters")
    if not (value.isascii() and value.isprintable()):
        raise InvalidRequest("request_id", "printable ASCII characters only")
    return value or secrets.token_hex(8)


def priority(value: int) -> None:
    """Raise InvalidRequest unless the reserved field is 0."""
    if value:
        raise InvalidRequest("priority", "only 0 is accepted")


def chat_messages(chat: pb.ChatMessages, field: str = "chat") -> list[ChatMessage]:
    """Return the conversation."""
    if not chat.messages:
        raise InvalidRequest(f"{field}.messages", "at least one message is needed")
    if len(chat.messages) > limits.MAX_CHAT_MESSAGES:
        raise InvalidRequest(f"{field}.messages", f"at most {limits.MAX_CHAT_MESSAGES} messages")
    for index, message in enumerate(chat.messages):
        if not message.role:
            raise InvalidRequest(f"{field}.messages[{index}].role", "must not be empty")
    return [ChatMessage(role=message.role, content=message.content) for message in chat.messages]


def token_ids(ids: Iterable[int], field: str, model: ModelLimits) -> list[int]:
    """Return the ids as a list; all are below the vocabulary size."""
    checked = list(ids)
    if checked and max(checked) >= model.vocabulary_size:
        index = next(i for i, token_id in enumerate(checked) if token_id >= model.vocabulary_size)
        raise InvalidRequest(f"{field}[{index}]", f"must be below the vocabulary size {model.vocabulary_size}")
    return checked


def prompt_length(length: int, field: str, model: ModelLimits, room_for: int = 1) -> None:
    """Raise InvalidRequest when a prompt is empty or leaves no room for `room_for` new tokens."""
    if length == 0:
        raise InvalidRequest(field, "must hold at least one token")
    if length + room_for > model.context_length:
        raise InvalidRequest(
            field, f"{length} tokens do not fit: the context holds {model.context_length}, the answer included"
        )


def stop_rules(
    stopping: pb.StoppingParams,
    prompt_tokens: int,
    end_of_text_ids: Iterable[int],
    model: ModelLimits,
    kv_cache_tokens: int,
) -> StopRules:
    """Return the request's stop rules, given the prompt's length and what the ranks' KV cache holds."""
    room = model.context_length - prompt_tokens
    if stopping.HasField("max_tokens"):
        max_new_tokens = stopping.max_tokens
        if max_new_tokens < 1:
            raise InvalidRequest("stopping.max_tokens", "at least 1")
        if max_new_tokens > model.max_new_tokens:
            raise InvalidRequest("stopping.max_tokens", f"at most {model.max_new_tokens}")
        if max_new_tokens > room:
            raise InvalidRequest(
                "stopping.max_tokens",
                f"{prompt_tokens} prompt tokens + {max_new_tokens} exceed the context of {model.context_length}",
            )
    else:
        max_new_tokens = max(1, min(room, model.max_new_tokens, kv_cache_tokens - prompt_tokens))
    if len(stopping.stop_strings) > limits.MAX_STOP_STRINGS:
        raise InvalidRequest("stopping.stop_strings", f"at most {limits.MAX_STOP_STRINGS} strings")
    for index, stop_string in enumerate(stopping.stop_strings):
        if not 1 <= len(stop_string.encode()) <= limits.MAX_STOP_STRING_BYTES:
            raise InvalidRequest(
                f"stopping.stop_strings[{index}]", f"1 to {limits.MAX_STOP_STRING_BYTES} bytes of UTF-8"
            )
    if len(stopping.stop_token_ids) > limits.MAX_STOP_TOKEN_IDS:
        raise InvalidRequest("stopping.stop_token_ids", f"at most {limits.MAX_STOP_TOKEN_IDS} ids")
    return StopRules(
        max_new_tokens=max_new_tokens,
        end_of_text_ids=frozenset() if stopping.ignore_eos else frozenset(end_of_text_ids),
        stop_token_ids=frozenset(token_ids(stopping.stop_token_ids, "stopping.stop_token_ids", model)),
        stop_strings=tuple(stopping.stop_strings),
    )


def sampling_params(sampling: sampling_pb2.SamplingParams, logprobs: int | None, model: ModelLimits) -> SamplingParams:
    """Return the request's sampling parameters; a seed is drawn where the caller gave none."""
    return read_params(sampling, logprobs, model.vocabulary_size, drawn_seed=secrets.randbits(64))


def max_draft_tokens(speculation: pb.SpeculationParams, most: int) -> int:
    """Return the most tokens to draft at once, given the gateway's own bound."""
    if not speculation.HasField("max_draft_tokens"):
        return most
    if speculation.max_draft_tokens > limits.MAX_DRAFT_TOKENS:
        raise InvalidRequest("speculation.max_draft_tokens", f"at most {limits.MAX_DRAFT_TOKENS}")
    return min(most, speculation.max_draft_tokens)


def top_logprobs(value: int) -> int:
    """Return ScoreRequest.top_logprobs."""
    if value > MAX_LOGPROBS:
        raise InvalidRequest("top_logprobs", f"at most {MAX_LOGPROBS}")
    return value
