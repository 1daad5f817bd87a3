"""When is a proposal worth verifying? What a draft worker answered, checked: behind this file its numbers can be
trusted, though never its guesses."""

from array import array
from dataclasses import dataclass

import numpy as np

from common.arrays import F32, I32, from_wire
from common.draft_protocol import HASHED_IDS, prefix_hash
from common.errors import Refused
from tandem.draft.v1 import draft_service_pb2 as pb

# By how much rounding may lift a probability above 1.
ROUNDING = 1e-3


@dataclass(frozen=True, slots=True)
class Drafted:
    """Tokens that a draft worker proposes for positions base_length and on.

    token_ids: i32[n], n >= 1, all within the target's vocabulary. probabilities: f32[n], 0 to 1, how likely the draft
    thinks each is, given those before. num_ready: how many had been computed before they were asked for. waited_ns:
    from asking to the answer's arrival. source: the draft's name.
    """

    base_length: int
    token_ids: "array[int]"
    probabilities: "array[float]"
    num_ready: int
    waited_ns: int
    source: str


def read_drafted(
    proposal: pb.Proposal,
    asked_ids: "array[int]",
    base_length: int,
    count: int,
    vocabulary_size: int,
    waited_ns: int,
    source: str,
) -> Drafted | None:
    """Return what was proposed to follow `asked_ids`, or None where that is nothing.

    asked_ids: i32, the committed ids before `base_length`, at least the last HASHED_IDS of them. Raises Refused
    (BAD_PROPOSAL) when anything about the proposal is not as the contract says: then none of it is of use.
    """
    _require(proposal.base_length == base_length, "it continues another length")
    _require(proposal.prefix_hash == prefix_hash(np.array(asked_ids[-HASHED_IDS:], np.int32)), "it continues other ids")
    ids = array("i", from_wire(proposal.ids, I32, (-1,), "ids", "BAD_PROPOSAL").tolist())
    shares = from_wire(proposal.probabilities, F32, (-1,), "probabilities", "BAD_PROPOSAL").tolist()
    _require(len(ids) <= count, "more ids than were asked for")
    _require(all(0 <= id_ < vocabulary_size for id_ in ids), "an id outside the vocabulary")
    _require(len(shares) == len(ids), "not one probability for each id")
    _require(all(0 <= share <= 1 + ROUNDING for share in shares), "a probability outside 0 to 1")
    _require(proposal.num_ready <= len(ids), "more ids ready than there are")
    if not ids:
        return None
    probabilities = array("f", (min(share, 1.0) for share in shares))
    return Drafted(base_length, ids, probabilities, proposal.num_ready, waited_ns, source)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise Refused("BAD_PROPOSAL", message)
