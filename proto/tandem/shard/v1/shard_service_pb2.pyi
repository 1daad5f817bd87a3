from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetInfoResponse(_message.Message):
    __slots__ = ("protocol_version", "epoch", "rank", "world_size", "checkpoint_hash", "block_size_tokens", "num_blocks", "vocabulary_first", "vocabulary_size", "max_step_tokens", "context_length", "dtype", "device", "quantization", "draining", "held", "compact_saved_bytes")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_HASH_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIRST_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_STEP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    QUANTIZATION_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    COMPACT_SAVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    epoch: int
    rank: int
    world_size: int
    checkpoint_hash: str
    block_size_tokens: int
    num_blocks: int
    vocabulary_first: int
    vocabulary_size: int
    max_step_tokens: int
    context_length: int
    dtype: str
    device: str
    quantization: str
    draining: bool
    held: bool
    compact_saved_bytes: int
    def __init__(self, protocol_version: _Optional[int] = ..., epoch: _Optional[int] = ..., rank: _Optional[int] = ..., world_size: _Optional[int] = ..., checkpoint_hash: _Optional[str] = ..., block_size_tokens: _Optional[int] = ..., num_blocks: _Optional[int] = ..., vocabulary_first: _Optional[int] = ..., vocabulary_size: _Optional[int] = ..., max_step_tokens: _Optional[int] = ..., context_length: _Optional[int] = ..., dtype: _Optional[str] = ..., device: _Optional[str] = ..., quantization: _Optional[str] = ..., draining: bool = ..., held: bool = ..., compact_saved_bytes: _Optional[int] = ...) -> None: ...

class RunRequest(_message.Message):
    __slots__ = ("attach", "frame", "resolve")
    ATTACH_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    RESOLVE_FIELD_NUMBER: _ClassVar[int]
    attach: Attach
    frame: Frame
    resolve: Resolve
    def __init__(self, attach: _Optional[_Union[Attach, _Mapping]] = ..., frame: _Optional[_Union[Frame, _Mapping]] = ..., resolve: _Optional[_Union[Resolve, _Mapping]] = ...) -> None: ...

class Attach(_message.Message):
    __slots__ = ("protocol_version", "epoch", "fence", "checkpoint_hash", "only_if_free")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_HASH_FIELD_NUMBER: _ClassVar[int]
    ONLY_IF_FREE_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    epoch: int
    fence: int
    checkpoint_hash: str
    only_if_free: bool
    def __init__(self, protocol_version: _Optional[int] = ..., epoch: _Optional[int] = ..., fence: _Optional[int] = ..., checkpoint_hash: _Optional[str] = ..., only_if_free: bool = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("epoch", "step", "plan_hash", "plan")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    PLAN_HASH_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    step: int
    plan_hash: int
    plan: bytes
    def __init__(self, epoch: _Optional[int] = ..., step: _Optional[int] = ..., plan_hash: _Optional[int] = ..., plan: _Optional[bytes] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("opens", "closes", "row_sequences", "row_base_lengths", "row_lengths", "row_sampled", "row_scored", "token_ids", "row_blocks", "block_tables", "scored_ids", "num_noised", "num_top", "num_raw", "num_scored_raw", "row_run_ahead", "row_continued")
    OPENS_FIELD_NUMBER: _ClassVar[int]
    CLOSES_FIELD_NUMBER: _ClassVar[int]
    ROW_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    ROW_BASE_LENGTHS_FIELD_NUMBER: _ClassVar[int]
    ROW_LENGTHS_FIELD_NUMBER: _ClassVar[int]
    ROW_SAMPLED_FIELD_NUMBER: _ClassVar[int]
    ROW_SCORED_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    ROW_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_TABLES_FIELD_NUMBER: _ClassVar[int]
    SCORED_IDS_FIELD_NUMBER: _ClassVar[int]
    NUM_NOISED_FIELD_NUMBER: _ClassVar[int]
    NUM_TOP_FIELD_NUMBER: _ClassVar[int]
    NUM_RAW_FIELD_NUMBER: _ClassVar[int]
    NUM_SCORED_RAW_FIELD_NUMBER: _ClassVar[int]
    ROW_RUN_AHEAD_FIELD_NUMBER: _ClassVar[int]
    ROW_CONTINUED_FIELD_NUMBER: _ClassVar[int]
    opens: _containers.RepeatedCompositeFieldContainer[SequenceOpen]
    closes: bytes
    row_sequences: bytes
    row_base_lengths: bytes
    row_lengths: bytes
    row_sampled: bytes
    row_scored: bytes
    token_ids: bytes
    row_blocks: bytes
    block_tables: bytes
    scored_ids: bytes
    num_noised: int
    num_top: int
    num_raw: int
    num_scored_raw: int
    row_run_ahead: bytes
    row_continued: bytes
    def __init__(self, opens: _Optional[_Iterable[_Union[SequenceOpen, _Mapping]]] = ..., closes: _Optional[bytes] = ..., row_sequences: _Optional[bytes] = ..., row_base_lengths: _Optional[bytes] = ..., row_lengths: _Optional[bytes] = ..., row_sampled: _Optional[bytes] = ..., row_scored: _Optional[bytes] = ..., token_ids: _Optional[bytes] = ..., row_blocks: _Optional[bytes] = ..., block_tables: _Optional[bytes] = ..., scored_ids: _Optional[bytes] = ..., num_noised: _Optional[int] = ..., num_top: _Optional[int] = ..., num_raw: _Optional[int] = ..., num_scored_raw: _Optional[int] = ..., row_run_ahead: _Optional[bytes] = ..., row_continued: _Optional[bytes] = ...) -> None: ...

class SequenceOpen(_message.Message):
    __slots__ = ("sequence", "seed", "temperature", "repetition_penalty", "presence_penalty", "frequency_penalty", "bias_ids", "bias_values", "prompt_length", "history", "traceparent")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    BIAS_IDS_FIELD_NUMBER: _ClassVar[int]
    BIAS_VALUES_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    seed: int
    temperature: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    bias_ids: bytes
    bias_values: bytes
    prompt_length: int
    history: bytes
    traceparent: str
    def __init__(self, sequence: _Optional[int] = ..., seed: _Optional[int] = ..., temperature: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., bias_ids: _Optional[bytes] = ..., bias_values: _Optional[bytes] = ..., prompt_length: _Optional[int] = ..., history: _Optional[bytes] = ..., traceparent: _Optional[str] = ...) -> None: ...

class Resolve(_message.Message):
    __slots__ = ("epoch", "step", "position")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    step: int
    position: int
    def __init__(self, epoch: _Optional[int] = ..., step: _Optional[int] = ..., position: _Optional[int] = ...) -> None: ...

class RunResponse(_message.Message):
    __slots__ = ("attached", "result", "resolved")
    ATTACHED_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    RESOLVED_FIELD_NUMBER: _ClassVar[int]
    attached: GetInfoResponse
    result: StepResult
    resolved: Resolved
    def __init__(self, attached: _Optional[_Union[GetInfoResponse, _Mapping]] = ..., result: _Optional[_Union[StepResult, _Mapping]] = ..., resolved: _Optional[_Union[Resolved, _Mapping]] = ...) -> None: ...

class StepResult(_message.Message):
    __slots__ = ("epoch", "step", "ran_hash", "noised_ids", "noised_scores", "noised_processed", "noised_raw", "top_ids", "top_processed", "raw_ids", "raw_logits", "processed_lse", "raw_lse", "scored_logits", "scored_lse", "scored_raw_ids", "scored_raw_logits", "queue_ns", "compute_ns", "collective_ns", "encode_ns", "ahead_ns")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    RAN_HASH_FIELD_NUMBER: _ClassVar[int]
    NOISED_IDS_FIELD_NUMBER: _ClassVar[int]
    NOISED_SCORES_FIELD_NUMBER: _ClassVar[int]
    NOISED_PROCESSED_FIELD_NUMBER: _ClassVar[int]
    NOISED_RAW_FIELD_NUMBER: _ClassVar[int]
    TOP_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_PROCESSED_FIELD_NUMBER: _ClassVar[int]
    RAW_IDS_FIELD_NUMBER: _ClassVar[int]
    RAW_LOGITS_FIELD_NUMBER: _ClassVar[int]
    PROCESSED_LSE_FIELD_NUMBER: _ClassVar[int]
    RAW_LSE_FIELD_NUMBER: _ClassVar[int]
    SCORED_LOGITS_FIELD_NUMBER: _ClassVar[int]
    SCORED_LSE_FIELD_NUMBER: _ClassVar[int]
    SCORED_RAW_IDS_FIELD_NUMBER: _ClassVar[int]
    SCORED_RAW_LOGITS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_NS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_NS_FIELD_NUMBER: _ClassVar[int]
    COLLECTIVE_NS_FIELD_NUMBER: _ClassVar[int]
    ENCODE_NS_FIELD_NUMBER: _ClassVar[int]
    AHEAD_NS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    step: int
    ran_hash: int
    noised_ids: bytes
    noised_scores: bytes
    noised_processed: bytes
    noised_raw: bytes
    top_ids: bytes
    top_processed: bytes
    raw_ids: bytes
    raw_logits: bytes
    processed_lse: bytes
    raw_lse: bytes
    scored_logits: bytes
    scored_lse: bytes
    scored_raw_ids: bytes
    scored_raw_logits: bytes
    queue_ns: int
    compute_ns: int
    collective_ns: int
    encode_ns: int
    ahead_ns: int
    def __init__(self, epoch: _Optional[int] = ..., step: _Optional[int] = ..., ran_hash: _Optional[int] = ..., noised_ids: _Optional[bytes] = ..., noised_scores: _Optional[bytes] = ..., noised_processed: _Optional[bytes] = ..., noised_raw: _Optional[bytes] = ..., top_ids: _Optional[bytes] = ..., top_processed: _Optional[bytes] = ..., raw_ids: _Optional[bytes] = ..., raw_logits: _Optional[bytes] = ..., processed_lse: _Optional[bytes] = ..., raw_lse: _Optional[bytes] = ..., scored_logits: _Optional[bytes] = ..., scored_lse: _Optional[bytes] = ..., scored_raw_ids: _Optional[bytes] = ..., scored_raw_logits: _Optional[bytes] = ..., queue_ns: _Optional[int] = ..., compute_ns: _Optional[int] = ..., collective_ns: _Optional[int] = ..., encode_ns: _Optional[int] = ..., ahead_ns: _Optional[int] = ...) -> None: ...

class Resolved(_message.Message):
    __slots__ = ("step", "first_id", "processed", "scores", "raw")
    STEP_FIELD_NUMBER: _ClassVar[int]
    FIRST_ID_FIELD_NUMBER: _ClassVar[int]
    PROCESSED_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    step: int
    first_id: int
    processed: bytes
    scores: bytes
    raw: bytes
    def __init__(self, step: _Optional[int] = ..., first_id: _Optional[int] = ..., processed: _Optional[bytes] = ..., scores: _Optional[bytes] = ..., raw: _Optional[bytes] = ...) -> None: ...
