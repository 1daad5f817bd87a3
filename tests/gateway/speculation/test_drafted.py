"""Proposals are taken only where everything about them is as the contract says."""

from array import array
from typing import Any

import numpy as np
import pytest

from common.arrays import F32, I32, to_wire
from common.draft_protocol import prefix_hash
from common.errors import Refused
from gateway.speculation.drafted import Drafted, read_drafted
from tandem.draft.v1 import draft_service_pb2 as pb

IDS = array("i", range(40))


def read(vocabulary_size: int = 100, **changes: Any) -> Drafted | None:
    """Read a good proposal of four ids after IDS, some of its fields changed."""
    fields: dict[str, Any] = {
        "base_length": len(IDS),
        "prefix_hash": prefix_hash(np.array(IDS, np.int32)),
        "ids": to_wire([7, 99, 0, 5], I32),
        "probabilities": to_wire([1.0000001, 0.5, 0.0, 0.25], F32),
        "num_ready": 4,
    }
    proposal = pb.Proposal(**(fields | changes))
    return read_drafted(proposal, IDS, len(IDS), 4, vocabulary_size, waited_ns=9, source="fake")


def test_a_good_one_is_taken() -> None:
    drafted = read()
    assert drafted == Drafted(40, array("i", [7, 99, 0, 5]), array("f", [1.0, 0.5, 0.0, 0.25]), 4, 9, "fake")


def test_an_empty_one_is_nothing() -> None:
    assert read(ids=b"", probabilities=b"", num_ready=0) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"base_length": 39},
        {"base_length": 41},
        {"prefix_hash": 1},
        {"vocabulary_size": 99},
        {"ids": to_wire([7, -1, 0, 5], I32)},
        {"ids": to_wire([7, 2**31 - 1, 0, 5], I32)},
        {"ids": b"\1\2\3"},
        {"ids": to_wire([1] * 5, I32), "probabilities": to_wire([1] * 5, F32)},
        {"probabilities": b""},
        {"probabilities": b"\1\2\3"},
        {"probabilities": to_wire([float("nan"), 0, 0, 0], F32)},
        {"probabilities": to_wire([0, 0, -0.1, 0], F32)},
        {"probabilities": to_wire([0, 0, 0, 1.5], F32)},
        {"num_ready": 5},
    ],
    ids=str,
)
def test_a_bad_one_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        read(**changes)
