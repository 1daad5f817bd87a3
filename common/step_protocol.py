"""The rules of the step stream that both of its ends must compute alike (tandem.shard.v1)."""

import struct
from hashlib import blake2b

PROTOCOL_VERSION = 2  # with the noise function, that of common/draft_protocol.py changes as well


def plan_hash(epoch: int, step: int, plan: bytes) -> int:
    """Return the hash a frame carries for its plan (Frame.plan_hash)."""
    return _hash64(struct.pack("<QQ", epoch, step) + plan)


def ran_hash(previous: int, plan_hash: int) -> int:
    """Return the hash that chains the plans a rank ran (StepResult.ran_hash). `previous` is 0 at first."""
    return _hash64(struct.pack("<QQ", previous, plan_hash))


def _hash64(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")
