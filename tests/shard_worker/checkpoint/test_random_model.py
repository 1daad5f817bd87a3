"""Checkpoints of random weights: valid, reproducible, and their ids all have some text."""

from pathlib import Path

import pytest
import torch

from common.cli import main
from common.errors import CheckpointError
from common.manifest import Manifest, read_manifest
from gateway.tokenizers.load import load_tokenizer
from shard_worker.checkpoint.known_shapes import KNOWN_SHAPES
from shard_worker.checkpoint.layout import expected_tensors
from shard_worker.checkpoint.output_folder import OutputFolder
from shard_worker.checkpoint.random_model import random_model
from shard_worker.checkpoint.reader import CheckpointReader
from shard_worker.checkpoint.writer import write_checkpoint
from shard_worker.commands.random_init import random_init


def make(folder: Path, seed: int) -> Manifest:
    with OutputFolder(folder) as output:
        return write_checkpoint(random_model("tiny", seed), output, "tiny", "bfloat16", lambda what, done, total: None)


def test_the_same_seed_gives_the_same_bits(tmp_path: Path) -> None:
    first, again, other = make(tmp_path / "a", 1), make(tmp_path / "b", 1), make(tmp_path / "c", 2)
    assert first == again
    assert first.files["model.safetensors"] != other.files["model.safetensors"]
    assert first.files["tokenizer.json"] == other.files["tokenizer.json"]


def test_weights_have_the_scale_of_trained_ones(tmp_path: Path) -> None:
    make(tmp_path / "a", 0)
    shape = KNOWN_SHAPES["tiny"]
    with CheckpointReader(tmp_path / "a") as reader:
        tensors = {name: reader.read(name).float() for name in expected_tensors(shape, "bfloat16")}
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert torch.equal(tensors["norm.weight"], torch.ones(shape.hidden_size))
    down = tensors["layers.0.feed_forward.down.weight"]
    assert down.std().item() == pytest.approx(shape.intermediate_size**-0.5, rel=0.05)
    assert not torch.equal(down, tensors["layers.1.feed_forward.down.weight"])


def test_a_tensor_in_blocks_is_not_one_block_again_and_again() -> None:
    blocks = list(random_model("stories15m", 0).tensors.blocks("embedding.weight"))
    assert sum(block.shape[0] for block in blocks) == 32_000 and len(blocks) > 1
    assert not torch.equal(blocks[0][:100], blocks[1][:100])


def test_the_tokenizer_reads_any_text_and_writes_every_id(tmp_path: Path) -> None:
    make(tmp_path / "a", 0)
    manifest, _ = read_manifest(tmp_path / "a")
    tokenizer = load_tokenizer(tmp_path / "a", manifest)
    text = "Straße, 東京 <|endoftext|>\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.vocabulary_size == manifest.architecture.vocabulary_size == 512
    silent = [id for id in range(512) if not tokenizer.decode([id])]
    assert silent == list(manifest.end_of_text_ids)


@pytest.mark.parametrize("shape", ["llama-2-7b", "llama-3.1-8b", "smollm2-135m"])
def test_large_shapes_have_their_sizes(shape: str) -> None:
    parameters = sum(spec.num_bytes // 4 for spec in expected_tensors(KNOWN_SHAPES[shape], "float32").values())
    known = {"llama-2-7b": 6_738_415_616, "llama-3.1-8b": 8_030_261_248, "smollm2-135m": 134_515_008}
    assert parameters == known[shape]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["random-init", "tiny", "--output", str(tmp_path / "x")]
    assert main.run(arguments) == 0
    assert "tiny-random is ready" in capsys.readouterr().out
    assert read_manifest(tmp_path / "x")[0].source == "random weights, shape tiny, seed 0"
    assert main.run(arguments) == 2  # there is one already
    assert main.run([*arguments, "--force", "--name", "other"]) == 0
    assert read_manifest(tmp_path / "x")[0].name == "other"


def test_an_unknown_shape_is_answered_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no shape 'lama'.*llama-2-7b"):
        random_model("lama", 0)
    assert random_init.help is not None
    assert all(shape in random_init.help for shape in KNOWN_SHAPES)
