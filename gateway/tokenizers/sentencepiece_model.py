"""The few fields of a SentencePiece model file that decide how it reads and writes text.

Field numbers are those of sentencepiece_model.proto. Fields not listed are kept as they are when the model is
written again.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from common.errors import CheckpointError

USER_DEFINED = 4
CONTROL = 3

_PACKAGE = "tandem.internal.sentencepiece"
_FIELD = descriptor_pb2.FieldDescriptorProto
# message -> field name, number, type, and for messages their type's name
_MESSAGES: dict[str, list[tuple[str, int, Any, str]]] = {
    "Piece": [("piece", 1, _FIELD.TYPE_STRING, ""), ("type", 3, _FIELD.TYPE_INT32, "")],
    "Normalizer": [
        ("add_dummy_prefix", 3, _FIELD.TYPE_BOOL, ""),
        ("remove_extra_whitespaces", 4, _FIELD.TYPE_BOOL, ""),
    ],
    "Denormalizer": [("precompiled_charsmap", 2, _FIELD.TYPE_BYTES, "")],
    "Model": [
        ("pieces", 1, _FIELD.TYPE_MESSAGE, "Piece"),
        ("normalizer_spec", 3, _FIELD.TYPE_MESSAGE, "Normalizer"),
        ("denormalizer_spec", 5, _FIELD.TYPE_MESSAGE, "Denormalizer"),
    ],
}


def read_model(data: bytes) -> Any:
    """Return the model file as a message. Raises CheckpointError when it is none."""
    model = message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{_PACKAGE}.Model"))()
    try:
        model.ParseFromString(data)
    except message.DecodeError as error:
        raise CheckpointError(f"the tokenizer's file is not a SentencePiece model: {error}") from error
    return model


def flag(spec: Any, name: str) -> bool:
    """Return a flag of the normalizer; unset means true, as in the original proto2 definition."""
    return bool(getattr(spec, name)) if spec.HasField(name) else True


def _pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto2")
    for name, fields in _MESSAGES.items():
        described = file.message_type.add(name=name)
        for field_name, number, kind, type_name in fields:
            label = _FIELD.LABEL_REPEATED if field_name == "pieces" else _FIELD.LABEL_OPTIONAL
            field = described.field.add(name=field_name, number=number, type=kind, label=label)
            if type_name:
                field.type_name = f".{_PACKAGE}.{type_name}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool
