"""Many damaged models: each is read or refused by a clear error, within twice its size of memory."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gguf.constants import GGMLQuantizationType
from safetensors.numpy import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support.fuzz_folder import INDEX
from tests.support.packed_int4 import PackedFormat, pack_folder
from tests.support.tiny_families import TinyFamily, random_family
from tests.support.tiny_gguf import gguf_of
from tests.support.tiny_model import byte_tokenizer

REPOSITORY = Path(__file__).parents[3]
# Large beside what the interpreter takes for its own.
SHAPE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "head_dim": 64}
MODEL = TinyFamily(LlamaConfig, LlamaForCausalLM, SHAPE | {"num_attention_heads": 4, "num_key_value_heads": 2})
# Where weights are small, more of them: one matrix at a time is unpacked, to many times its size.
DEEPER = replace(MODEL, changes=MODEL.changes | {"num_hidden_layers": 6})


def hub(folder: Path) -> Path:
    random_family(MODEL).save_pretrained(folder, max_shard_size="2MB")
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def whole_gguf(folder: Path) -> Path:
    random_family(MODEL).save_pretrained(folder / "hub")
    return gguf_of(folder / "hub", folder / "sound.gguf")


def small_gguf(folder: Path) -> Path:
    random_family(DEEPER).save_pretrained(folder / "hub")
    return gguf_of(folder / "hub", folder / "sound.gguf", GGMLQuantizationType.Q8_0)


def packed_hub(folder: Path) -> Path:
    random_family(DEEPER).save_pretrained(folder / "hub")
    byte_tokenizer().save(str(folder / "hub" / "tokenizer.json"))
    pack_folder(folder / "hub", PackedFormat("gptq", 64))
    file = (folder / "hub" / "model.safetensors").rename(folder / "hub" / "model-00001-of-00001.safetensors")
    (folder / "hub" / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(load_file(file), file.name)}))
    return folder / "hub"


@pytest.mark.parametrize(
    ("kind", "make", "count"),
    [("gguf", whole_gguf, 280), ("gguf", small_gguf, 560), ("folder", hub, 480), ("folder", packed_hub, 360)],
)
def test_damage_is_refused_or_harmless(tmp_path: Path, kind: str, make: Callable[[Path], Path], count: int) -> None:
    sound = make(tmp_path / "sound")
    command = [sys.executable, "-m", "tests.support.fuzz_checkpoints", kind, str(sound), str(tmp_path), str(count)]
    child = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr[-2000:]
    outcome = json.loads(child.stdout.splitlines()[-1])
    assert outcome["failures"] == []
    assert outcome["refused"] + outcome["read"] == count
    assert outcome["refused"] > count / 2
    assert outcome["growth"] < 2, outcome["grown_by"]
