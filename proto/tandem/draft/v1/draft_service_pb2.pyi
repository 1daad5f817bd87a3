from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_PROPOSED: _ClassVar[Outcome]
    OUTCOME_UNKNOWN: _ClassVar[Outcome]
    OUTCOME_GAP: _ClassVar[Outcome]
    OUTCOME_STALE: _ClassVar[Outcome]
    OUTCOME_LATE: _ClassVar[Outcome]
    OUTCOME_FULL: _ClassVar[Outcome]
    OUTCOME_DRAINING: _ClassVar[Outcome]
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_PROPOSED: Outcome
OUTCOME_UNKNOWN: Outcome
OUTCOME_GAP: Outcome
OUTCOME_STALE: Outcome
OUTCOME_LATE: Outcome
OUTCOME_FULL: Outcome
OUTCOME_DRAINING: Outcome

class GetInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetInfoResponse(_message.Message):
    __slots__ = ("protocol_version", "proposer", "name", "vocabulary_hash", "vocabulary_size", "context_length", "max_count", "max_requests", "kv_cache_tokens", "load")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROPOSER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_HASH_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MAX_COUNT_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    KV_CACHE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    proposer: str
    name: str
    vocabulary_hash: str
    vocabulary_size: int
    context_length: int
    max_count: int
    max_requests: int
    kv_cache_tokens: int
    load: Load
    def __init__(self, protocol_version: _Optional[int] = ..., proposer: _Optional[str] = ..., name: _Optional[str] = ..., vocabulary_hash: _Optional[str] = ..., vocabulary_size: _Optional[int] = ..., context_length: _Optional[int] = ..., max_count: _Optional[int] = ..., max_requests: _Optional[int] = ..., kv_cache_tokens: _Optional[int] = ..., load: _Optional[_Union[Load, _Mapping]] = ...) -> None: ...

class ProposeRequest(_message.Message):
    __slots__ = ("attach", "batch")
    ATTACH_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    attach: Attach
    batch: Batch
    def __init__(self, attach: _Optional[_Union[Attach, _Mapping]] = ..., batch: _Optional[_Union[Batch, _Mapping]] = ...) -> None: ...

class Attach(_message.Message):
    __slots__ = ("protocol_version", "vocabulary_hash", "vocabulary_size", "target_hash")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_HASH_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    TARGET_HASH_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    vocabulary_hash: str
    vocabulary_size: int
    target_hash: str
    def __init__(self, protocol_version: _Optional[int] = ..., vocabulary_hash: _Optional[str] = ..., vocabulary_size: _Optional[int] = ..., target_hash: _Optional[str] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("opens", "commits", "closes")
    OPENS_FIELD_NUMBER: _ClassVar[int]
    COMMITS_FIELD_NUMBER: _ClassVar[int]
    CLOSES_FIELD_NUMBER: _ClassVar[int]
    opens: _containers.RepeatedCompositeFieldContainer[Open]
    commits: _containers.RepeatedCompositeFieldContainer[Commit]
    closes: _containers.RepeatedCompositeFieldContainer[Close]
    def __init__(self, opens: _Optional[_Iterable[_Union[Open, _Mapping]]] = ..., commits: _Optional[_Iterable[_Union[Commit, _Mapping]]] = ..., closes: _Optional[_Iterable[_Union[Close, _Mapping]]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("request", "epoch", "ids", "prompt_length", "sampling", "traceparent")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    request: int
    epoch: int
    ids: bytes
    prompt_length: int
    sampling: Sampling
    traceparent: str
    def __init__(self, request: _Optional[int] = ..., epoch: _Optional[int] = ..., ids: _Optional[bytes] = ..., prompt_length: _Optional[int] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., traceparent: _Optional[str] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("seed", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "bias_ids", "bias_values")
    SEED_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    BIAS_IDS_FIELD_NUMBER: _ClassVar[int]
    BIAS_VALUES_FIELD_NUMBER: _ClassVar[int]
    seed: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    bias_ids: bytes
    bias_values: bytes
    def __init__(self, seed: _Optional[int] = ..., temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., bias_ids: _Optional[bytes] = ..., bias_values: _Optional[bytes] = ...) -> None: ...

class Commit(_message.Message):
    __slots__ = ("request", "epoch", "round", "base_length", "ids", "count", "deadline_ns")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BASE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_NS_FIELD_NUMBER: _ClassVar[int]
    request: int
    epoch: int
    round: int
    base_length: int
    ids: bytes
    count: int
    deadline_ns: int
    def __init__(self, request: _Optional[int] = ..., epoch: _Optional[int] = ..., round: _Optional[int] = ..., base_length: _Optional[int] = ..., ids: _Optional[bytes] = ..., count: _Optional[int] = ..., deadline_ns: _Optional[int] = ...) -> None: ...

class Close(_message.Message):
    __slots__ = ("request", "epoch")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    request: int
    epoch: int
    def __init__(self, request: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class ProposeResponse(_message.Message):
    __slots__ = ("attached", "answers")
    ATTACHED_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    attached: GetInfoResponse
    answers: Answers
    def __init__(self, attached: _Optional[_Union[GetInfoResponse, _Mapping]] = ..., answers: _Optional[_Union[Answers, _Mapping]] = ...) -> None: ...

class Answers(_message.Message):
    __slots__ = ("proposals", "load")
    PROPOSALS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    proposals: _containers.RepeatedCompositeFieldContainer[Proposal]
    load: Load
    def __init__(self, proposals: _Optional[_Iterable[_Union[Proposal, _Mapping]]] = ..., load: _Optional[_Union[Load, _Mapping]] = ...) -> None: ...

class Proposal(_message.Message):
    __slots__ = ("request", "epoch", "round", "outcome", "base_length", "prefix_hash", "ids", "probabilities", "margins", "runner_up_ids", "match_length", "num_ready", "known_length", "queue_ns", "compute_ns", "num_steps")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    BASE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    PREFIX_HASH_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    MARGINS_FIELD_NUMBER: _ClassVar[int]
    RUNNER_UP_IDS_FIELD_NUMBER: _ClassVar[int]
    MATCH_LENGTH_FIELD_NUMBER: _ClassVar[int]
    NUM_READY_FIELD_NUMBER: _ClassVar[int]
    KNOWN_LENGTH_FIELD_NUMBER: _ClassVar[int]
    QUEUE_NS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_NS_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    request: int
    epoch: int
    round: int
    outcome: Outcome
    base_length: int
    prefix_hash: int
    ids: bytes
    probabilities: bytes
    margins: bytes
    runner_up_ids: bytes
    match_length: int
    num_ready: int
    known_length: int
    queue_ns: int
    compute_ns: int
    num_steps: int
    def __init__(self, request: _Optional[int] = ..., epoch: _Optional[int] = ..., round: _Optional[int] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., base_length: _Optional[int] = ..., prefix_hash: _Optional[int] = ..., ids: _Optional[bytes] = ..., probabilities: _Optional[bytes] = ..., margins: _Optional[bytes] = ..., runner_up_ids: _Optional[bytes] = ..., match_length: _Optional[int] = ..., num_ready: _Optional[int] = ..., known_length: _Optional[int] = ..., queue_ns: _Optional[int] = ..., compute_ns: _Optional[int] = ..., num_steps: _Optional[int] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("open_requests", "waiting", "unread_tokens", "kv_cache_used_tokens", "step_ns", "busy_fraction", "draining")
    OPEN_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    UNREAD_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KV_CACHE_USED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STEP_NS_FIELD_NUMBER: _ClassVar[int]
    BUSY_FRACTION_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    open_requests: int
    waiting: int
    unread_tokens: int
    kv_cache_used_tokens: int
    step_ns: int
    busy_fraction: float
    draining: bool
    def __init__(self, open_requests: _Optional[int] = ..., waiting: _Optional[int] = ..., unread_tokens: _Optional[int] = ..., kv_cache_used_tokens: _Optional[int] = ..., step_ns: _Optional[int] = ..., busy_fraction: _Optional[float] = ..., draining: bool = ...) -> None: ...
