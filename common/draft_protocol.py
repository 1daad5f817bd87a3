"""The rules of the draft stream that both of its ends must compute alike (tandem.draft.v1)."""

from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from common.arrays import I32, to_wire

PROTOCOL_VERSION = 1

# Ids before a proposal that its prefix_hash covers.
HASHED_IDS = 32


def prefix_hash(ids: npt.NDArray[np.int32]) -> int:
    """Return Proposal.prefix_hash of a proposal that continues `ids`, int32[*]; its last HASHED_IDS are enough."""
    return int.from_bytes(blake2b(to_wire(ids[-HASHED_IDS:], I32), digest_size=8).digest(), "little")
