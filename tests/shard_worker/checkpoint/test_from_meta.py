"""What is wrong with Meta's shards is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import CheckpointError
from shard_worker.checkpoint.from_meta import consolidated_shards, open_meta
from shard_worker.checkpoint.source import ForeignModel
from tests.support.foreign_checkpoints import (
    PARAMS,
    Weights,
    save_safe,
    tiny_architecture,
    tiny_weights,
    write_hub,
    write_meta,
)

QUERY = "layers.1.attention.wq.weight"


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., ForeignModel]:
    """Return a function that opens two shards, the second of which was changed."""

    def open_changed(change: Callable[[Weights], object], both: bool = False, **params: Any) -> ForeignModel:
        def save(tensors: Weights, path: Path) -> None:
            if both or path.name == "consolidated.01.pth":
                change(tensors)
            save_safe(tensors, path)

        architecture = tiny_architecture()
        weights = tiny_weights(architecture)
        folder = write_meta(tmp_path / "meta", architecture, weights, ranks=2, embedding_by_rows=True, save=save)
        (folder / "params.json").write_text(json.dumps(PARAMS | params))
        return open_meta(consolidated_shards(folder), lambda file: file, context_length=128)

    return open_changed


@pytest.mark.parametrize(
    ("change", "both", "reason"),
    [
        (lambda t: t.pop(QUERY), True, f"missing tensors: {QUERY}"),
        (lambda t: t.pop(QUERY), False, f"shards 0 and 1 do not both have {QUERY}"),
        (lambda t: t.update(bias=torch.ones(2)), True, "leftover tensors: bias"),
        (lambda t: t.update({QUERY: torch.ones(16, 31)}), True, rf"{QUERY} is \[16, 31\] in 2 shards, .* \[32, 32\]"),
        (lambda t: t.update({QUERY: torch.ones(8, 32)}), False, rf"{QUERY} is \[16, 32\] and \[8, 32\] in 2 shards"),
        (lambda t: t.update({QUERY: t[QUERY].to(torch.int8)}), True, f"{QUERY} has type torch.int8"),
        (lambda t: t.pop("tok_embeddings.weight"), True, r"missing tensors: tok_embeddings\.weight"),
        (lambda t: t.pop("output.weight"), True, r"missing tensors: output\.weight"),
    ],
    ids=["missing", "missing in one", "leftover", "misshapen", "misshapen in one", "type", "no embedding", "no head"],
)
def test_tensors_at_fault_are_named(
    opened: Callable[..., ForeignModel], change: Callable[[Weights], object], both: bool, reason: str
) -> None:
    with pytest.raises(CheckpointError, match=reason):
        opened(change, both)


def test_norms_must_be_the_same_in_all_shards(opened: Callable[..., ForeignModel]) -> None:
    model = opened(lambda tensors: tensors.update({"norm.weight": torch.zeros(32)}))
    with pytest.raises(CheckpointError, match=r"the shards' norm\.weight differ"):
        list(model.tensors.blocks("norm.weight"))


def test_more_layers_than_tensors_are_refused_at_once(opened: Callable[..., ForeignModel]) -> None:
    with pytest.raises(CheckpointError, match="missing tensors: there are fewer than layers"):
        opened(lambda tensors: None, n_layers=20_000)


def test_llama_3_2_must_say_its_scaling(opened: Callable[..., ForeignModel]) -> None:
    def tie(tensors: Weights) -> None:
        tensors["output.weight"] = tensors["tok_embeddings.weight"].clone()

    with pytest.raises(CheckpointError, match=r'add "rope_scaling_factor" to it, or give the config\.json'):
        opened(tie, both=True, use_scaled_rope=True)


def test_llama_3_1_has_metas_scaling(opened: Callable[..., ForeignModel]) -> None:
    scaling = opened(lambda tensors: None, use_scaled_rope=True).architecture.rope.scaling
    assert scaling is not None and scaling.kind == "llama3" and scaling.factor == 8.0


def test_a_head_that_the_config_ties_must_be_the_embedding(tmp_path: Path) -> None:
    architecture = tiny_architecture()
    weights = tiny_weights(architecture)
    meta = write_meta(tmp_path / "meta", architecture, weights, save=save_safe)
    config = write_hub(tmp_path / "hub", tiny_architecture(tied_embeddings=True), weights) / "config.json"
    with pytest.raises(
        CheckpointError, match=r"the config ties output\.weight to tok_embeddings\.weight, but they differ"
    ):
        open_meta(consolidated_shards(meta), lambda file: file, config)
    weights["head.weight"] = weights["embedding.weight"]
    again = write_meta(tmp_path / "again", architecture, weights, save=save_safe)
    assert open_meta(consolidated_shards(again), lambda file: file, config).architecture.tied_embeddings


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "qwen2"}, r"Meta's layout of the weights has no place for layers\.0\.attention\.query\.bias"),
        ({"model_type": "gpt2"}, 'model_type = "gpt2" is none of'),
        ({"model_type": None, "num_hidden_layers": 2}, "model_type = null is none of"),
    ],
    ids=str,
)
def test_families_of_another_layout_are_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    architecture = tiny_architecture()
    weights = tiny_weights(architecture)
    meta = write_meta(tmp_path / "meta", architecture, weights, save=save_safe)
    config = write_hub(tmp_path / "hub", architecture, weights) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(CheckpointError, match=reason):
        open_meta(consolidated_shards(meta), lambda file: file, config)


def test_which_token_ends_a_text_must_be_known(tmp_path: Path) -> None:
    architecture = tiny_architecture()
    meta = write_meta(tmp_path / "meta", architecture, tiny_weights(architecture), save=save_safe)
    (meta / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    assert open_meta(consolidated_shards(meta), lambda file: file, context_length=8).end_of_text_ids == (2, 7)
    (meta / "generation_config.json").write_text('{"eos_token_id": "x"}')
    with pytest.raises(CheckpointError, match="is not a list of token ids"):
        open_meta(consolidated_shards(meta), lambda file: file, context_length=8)
    (meta / "generation_config.json").write_text('{"eos_token_id": []}')
    assert open_meta(consolidated_shards(meta), lambda file: file, context_length=8).end_of_text_ids == (2,)
