"""A manifest states one of the formats, whole; anything between is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.errors import CheckpointError
from common.manifest import MANIFEST_FILE, UNQUANTIZED, Quantization, read_manifest
from tests.support.tiny_manifest import tiny_manifest

INT4 = {"mode": "int4", "method": "gptq", "group_size": 64, "head_group_size": 16, "embedding": "int8"}
INT8 = {"mode": "int8", "method": "round-to-nearest", "embedding": "int8"}


def write_manifest(folder: Path, quantization: dict[str, Any], head_dim: int = 48) -> None:
    manifest = tiny_manifest({"head_dim": head_dim}, dtype="bfloat16", quantization=quantization)
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


@pytest.mark.parametrize("stated", [{"mode": "none"}, INT8, INT8 | {"embedding": "none"}, INT4])
def test_what_is_whole_is_read(tmp_path: Path, stated: dict[str, Any]) -> None:
    write_manifest(tmp_path, stated)
    assert read_manifest(tmp_path)[0].quantization == Quantization.model_validate(stated)


def test_a_manifest_from_before_quantisation_is_unquantised(tmp_path: Path) -> None:
    write_manifest(tmp_path, {"mode": "none"})
    assert read_manifest(tmp_path)[0].quantization == UNQUANTIZED


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ({}, "mode: Field required"),
        ({"mode": "int3"}, "'none', 'int8' or 'int4'"),
        ({"mode": "int8"}, r"states \['method'\], not \[\]"),
        (INT8 | {"group_size": 32}, "not .*'group_size'"),
        (INT8 | {"method": "gptq"}, "method gptq is of mode int4"),
        (INT8 | {"embedding": "int4"}, "'none' or 'int8'"),
        ({"mode": "none", "method": "gptq"}, r"states \[\], not \['method'\]"),
        ({"mode": "none", "embedding": "int8"}, "leaves the embedding as it is"),
        ({"mode": "int4", "method": "gptq"}, "'group_size', 'head_group_size'"),
        (INT4 | {"group_size": 48}, "32, 64, 128 or 256"),
        (INT4 | {"group_size": -32}, "32, 64, 128 or 256"),
        (INT4 | {"head_group_size": 128}, "must be even and divide group_size"),
        (INT4 | {"head_group_size": 1}, "must be even and divide group_size"),
        (INT4 | {"head_group_size": 32}, "head_group_size 32 does not divide head_dim 48"),
        (INT4 | {"layout_version": 2}, "layout_version"),
        (INT4 | {"act_order": True}, "act_order: Extra inputs are not permitted"),
    ],
)
def test_what_is_not_is_refused(tmp_path: Path, stated: dict[str, Any], reason: str) -> None:
    write_manifest(tmp_path, stated)
    with pytest.raises(CheckpointError, match=f"is not a valid manifest: .*{reason}"):
        read_manifest(tmp_path)
