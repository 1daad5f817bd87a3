"""Every foreign format of the same weights becomes the same checkpoint, to the byte."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import CheckpointError
from common.manifest import MANIFEST_FILE, Manifest
from shard_worker.checkpoint.recognise import open_found, recognise
from shard_worker.checkpoint.torch_child import convert
from shard_worker.checkpoint.torch_file import Unpickler
from tests.support.foreign_checkpoints import (
    PARAMS,
    tiny_architecture,
    tiny_weights,
    write_gpt_fast,
    write_hub,
    write_llama2c,
    write_llama2c_training,
    write_meta,
    write_pickled_hub,
)

Write = Callable[..., Manifest]
WEIGHTS = "model.safetensors"


def in_process(folder: Path) -> Callable[[Path], Path]:
    """Return what a child does, without the child: these files are our own."""

    def unpickle(path: Path) -> Path:
        convert(path, folder / f"{path.name}.safetensors")
        return folder / f"{path.name}.safetensors"

    return unpickle


def converted(source: Path, write: Write, folder: Path, child: bool = False, **flags: Any) -> Manifest:
    """Convert `source` to `folder` as the command does."""
    scratch = folder.with_name("scratch")
    scratch.mkdir(parents=True)
    unpickle = Unpickler(scratch, lambda *_: None) if child else in_process(scratch)
    model = open_found(recognise(source), unpickle, flags.get("config"), flags.get("context_length"))
    return write(model, folder)


FORMATS: dict[str, tuple[Callable[..., Path], dict[str, Any], dict[str, Any], bool]] = {
    # maker, its arguments, flags of the conversion, whether the real child reads
    "bin": (write_pickled_hub, {}, {}, False),
    "bin, 2 files": (write_pickled_hub, {"files": 2}, {}, True),
    "meta": (write_meta, {}, {"context_length": 128}, False),
    "meta, 2 ranks, embedding cut by columns": (write_meta, {"ranks": 2}, {"context_length": 128}, True),
    "meta, 2 ranks, by rows": (write_meta, {"ranks": 2, "embedding_by_rows": True}, {"context_length": 128}, False),
    "gpt-fast": (write_gpt_fast, {}, {}, True),
    "gpt-fast, not fused": (write_gpt_fast, {"fused": False}, {}, False),
    "llama2.c, trained": (write_llama2c_training, {}, {}, False),
    "llama2.c, version 0": (write_llama2c, {"version": 0}, {}, False),
    "llama2.c, version 1": (write_llama2c, {"version": 1}, {}, False),
}


@pytest.mark.parametrize("format", [format for format in FORMATS if format != "llama2.c, trained"])
def test_every_format_makes_the_same_checkpoint(tmp_path: Path, write: Write, format: str) -> None:
    make, arguments, flags, child = FORMATS[format]
    architecture = tiny_architecture()
    weights = tiny_weights(architecture)
    source = make(tmp_path / "foreign", architecture, weights, **arguments)
    manifest = converted(source, write, tmp_path / "ours", child, **flags)
    wanted = write(
        open_found(recognise(write_hub(tmp_path / "hub", architecture, weights)), in_process(tmp_path), None, None),
        tmp_path / "wanted",
    )
    assert (tmp_path / "ours" / WEIGHTS).read_bytes() == (tmp_path / "wanted" / WEIGHTS).read_bytes()
    assert manifest.architecture == wanted.architecture == architecture
    assert manifest.files[WEIGHTS] == wanted.files[WEIGHTS]
    assert manifest.end_of_text_ids == ((2, 1) if "llama2.c" in format else (2,))
    assert manifest.tokenizer == wanted.tokenizer


@pytest.mark.parametrize(
    "format", ["bin", "gpt-fast", "llama2.c, trained", "llama2.c, version 0", "llama2.c, version 1"]
)
def test_tied_embeddings(tmp_path: Path, write: Write, format: str) -> None:
    make, arguments, flags, _ = FORMATS[format]
    architecture = tiny_architecture(tied_embeddings=True)
    weights = tiny_weights(architecture)
    source = make(tmp_path / "foreign", architecture, weights, **arguments)
    manifest = converted(source, write, tmp_path / "ours", **flags)
    assert manifest.architecture == architecture
    assert manifest.end_of_text_ids == ((2, 1) if "llama2.c" in format else (2,))
    hub = write_hub(tmp_path / "hub", architecture, weights)
    converted(hub, write, tmp_path / "wanted" / "checkpoint")
    assert (tmp_path / "ours" / WEIGHTS).read_bytes() == (tmp_path / "wanted" / "checkpoint" / WEIGHTS).read_bytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_other_types_come_through(tmp_path: Path, write: Write, dtype: torch.dtype) -> None:
    architecture = tiny_architecture()
    weights = tiny_weights(architecture, dtype)
    meta = write_meta(tmp_path / "meta", architecture, weights, ranks=2)
    converted(meta, write, tmp_path / "ours", context_length=128)
    converted(write_hub(tmp_path / "hub", architecture, weights), write, tmp_path / "wanted" / "checkpoint")
    assert (tmp_path / "ours" / WEIGHTS).read_bytes() == (tmp_path / "wanted" / "checkpoint" / WEIGHTS).read_bytes()


def test_what_was_found_is_said(tmp_path: Path) -> None:
    architecture = tiny_architecture()
    weights = tiny_weights(architecture)
    pth = write_gpt_fast(tmp_path / "gpt-fast", architecture, weights)
    found = {
        write_hub(tmp_path / "hub", architecture, weights): "a Hugging Face folder with safetensors",
        write_pickled_hub(tmp_path / "bin", architecture, weights): "a Hugging Face folder with pytorch_model.bin",
        write_meta(tmp_path / "meta", architecture, weights, 2): "Meta's consolidated shards (2 files)",
        pth: "one file of weights in gpt-fast's layout",
        pth.parent: "one file of weights in gpt-fast's layout",
        write_llama2c(tmp_path / "c", architecture, weights, 0): "a model file of llama2.c",
    }
    assert {path: recognise(path).description for path in found} == found


def test_what_is_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello " * 20)
    with pytest.raises(CheckpointError, match="nothing that can be converted: it does not start with GGUF"):
        recognise(tmp_path / "text")
    with pytest.raises(CheckpointError, match=r"there are no weights: none of model\.safetensors"):
        recognise(tmp_path)
    (tmp_path / MANIFEST_FILE).write_text("{}")
    with pytest.raises(CheckpointError, match="is a checkpoint of ours already"):
        recognise(tmp_path)


def test_flags_that_a_format_has_no_use_for_are_refused(tmp_path: Path) -> None:
    architecture = tiny_architecture()
    hub = write_hub(tmp_path / "hub", architecture, tiny_weights(architecture))
    with pytest.raises(CheckpointError, match="--config and --context-length are not for a Hugging Face folder"):
        open_found(recognise(hub), in_process(tmp_path), hub / "config.json", None)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    architecture = tiny_architecture()
    meta = write_meta(tmp_path / "meta", architecture, tiny_weights(architecture), ranks=2)
    (meta / "consolidated.00.pth").rename(meta / "consolidated.02.pth")
    with pytest.raises(CheckpointError, match=r"consolidated\.00\.pth is missing, but there is consolidated\.01\.pth"):
        recognise(meta)
    (meta / "consolidated.01.pth").rename(meta / "consolidated.00.pth")
    (meta / "consolidated.02.pth").unlink()
    with pytest.raises(CheckpointError, match=r"tok_embeddings\.weight is \[\d+, 16\] in 1 shards, which do not make"):
        open_found(recognise(meta), in_process(tmp_path), None, 128)


def test_a_config_from_elsewhere(tmp_path: Path, write: Write) -> None:
    architecture = tiny_architecture()
    pth = write_gpt_fast(tmp_path / "gpt-fast", architecture, tiny_weights(architecture))
    config = (pth.parent / "config.json").rename(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=r"neither config\.json nor params\.json beside the weights; --config"):
        open_found(recognise(pth), in_process(tmp_path), None, None)
    assert converted(pth, write, tmp_path / "one", config=config).architecture == architecture
    (pth.parent / "params.json").write_text(json.dumps(PARAMS | {"max_seq_len": 128}))
    assert converted(pth, write, tmp_path / "a" / "two").architecture == architecture
