"""Damaged files of torch.save, Meta, gpt-fast and llama2.c: always a clear error or a model, and memory is bounded."""

import json
import random
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.errors import CheckpointError, TandemError
from shard_worker.checkpoint.from_huggingface import open_huggingface
from shard_worker.checkpoint.from_llama2c import open_llama2c
from shard_worker.checkpoint.from_meta import consolidated_shards, open_meta
from shard_worker.checkpoint.layout import expected_tensors
from shard_worker.checkpoint.llama2c_tokenizer import read_tokenizer_bin
from shard_worker.checkpoint.recognise import recognise
from shard_worker.checkpoint.source import ForeignModel
from shard_worker.checkpoint.torch_child import convert
from shard_worker.checkpoint.torch_file import ROOT, Unpickler
from tests.support.foreign_checkpoints import (
    PARAMS,
    PIECES,
    meta_weights,
    save_safe,
    save_torch,
    tiny_architecture,
    tiny_weights,
    tokenizer_bin,
    write_llama2c,
    write_meta,
    write_pickled_hub,
)
from tests.support.mutations import damaged, damaged_json

ARCHITECTURE = tiny_architecture()

# What the child does, with its limits, for all files of a folder: a crash or a hang would end the list early.
CHILD_FOR_MANY = """
import json, sys
from pathlib import Path
from shard_worker.checkpoint.torch_child import attempt, limit_process

limit_process(1 << 20)
for path in sorted(Path(sys.argv[1]).iterdir()):
    sys.stdout.write(json.dumps({"file": path.name, "verdict": attempt(path, Path(sys.argv[2]) / path.name)}) + "\\n")
"""


def read_whole(model: ForeignModel) -> None:
    """Read every tensor, as the writer does."""
    for name in expected_tensors(model.architecture, "float32"):
        for block in model.tensors.blocks(name):
            assert block.is_floating_point()


def verdict(read: Callable[[], ForeignModel]) -> str:
    """Return "read" or "refused"; any other error than ours, or one without a word, fails the test."""
    try:
        read_whole(read())
    except TandemError as error:
        assert str(error).strip() and "\n" not in str(error)
        return "refused"
    return "read"


@pytest.fixture
def meta_folder(tmp_path: Path) -> Path:
    """Return a folder of two shards, as safetensors under the shards' names: what children would make of them."""
    return write_meta(tmp_path / "meta", ARCHITECTURE, tiny_weights(ARCHITECTURE), ranks=2, save=save_safe)


@pytest.mark.parametrize("version", [0, 1])
def test_damaged_files_of_llama2c(tmp_path: Path, version: int) -> None:
    path = write_llama2c(tmp_path / "c", ARCHITECTURE, tiny_weights(ARCHITECTURE), version)
    whole, dice, verdicts = path.read_bytes(), random.Random(version), Counter[str]()
    for _ in range(120):
        path.write_bytes(damaged(whole, dice, start_bytes=40))
        tracemalloc.start()
        verdicts[verdict(lambda: open_llama2c(path))] += 1
        assert tracemalloc.get_traced_memory()[1] < 2 * len(whole)
        tracemalloc.stop()
    assert verdicts["refused"] > 60 and sum(verdicts.values()) == 120


@pytest.mark.parametrize("numbers", [(1 << 30,) * 7, (2**31 - 1,) * 7, (-(2**31),) * 7, (4, 4, 2**31 - 1, 1, 1, 4, 4)])
def test_huge_headers_of_llama2c_are_refused_before_anything_is_made_of_them(
    tmp_path: Path, numbers: tuple[int, ...]
) -> None:
    path = tmp_path / "huge.bin"
    for header in (struct.pack("<7i", *numbers), struct.pack("<Ii7iB", 0x616B3432, 1, *numbers, 0)):
        path.write_bytes(header.ljust(300, b"\0"))
        tracemalloc.start()
        with pytest.raises(CheckpointError):
            open_llama2c(path)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak_bytes < 1 << 20


def test_damaged_tokenizers_of_llama2c(tmp_path: Path) -> None:
    path, dice, refused = tmp_path / "tokenizer.bin", random.Random(2), 0
    for _ in range(60):
        path.write_bytes(damaged(tokenizer_bin(), dice, start_bytes=64))
        try:
            assert read_tokenizer_bin(path, len(PIECES)).kind == "sentencepiece"
        except CheckpointError as error:
            assert "tokenizer.bin" in str(error)
            refused += 1
    assert refused > 20


def test_damaged_params(meta_folder: Path) -> None:
    path, dice, verdicts = meta_folder / "params.json", random.Random(3), Counter[str]()
    for i in range(100):
        whole = json.dumps(PARAMS | {"max_seq_len": 128}).encode()
        fields = damaged_json(json.loads(whole), dice)
        path.write_bytes(damaged(whole, dice) if i % 4 == 0 else json.dumps(fields).encode())
        verdicts[verdict(lambda: open_meta(consolidated_shards(meta_folder), lambda file: file))] += 1
    assert verdicts["refused"] > 60


def test_damaged_tensors_of_meta(meta_folder: Path) -> None:
    path, dice, verdicts = meta_folder / "consolidated.01.pth", random.Random(4), Counter[str]()
    whole = path.read_bytes()
    header_bytes = int.from_bytes(whole[:8], "little")
    for i in range(150):
        if i % 3 == 0:
            path.write_bytes(damaged(whole, dice, start_bytes=header_bytes))
        else:
            header = json.dumps(_wrong(json.loads(whole[8 : 8 + header_bytes]), dice)).encode()
            path.write_bytes(len(header).to_bytes(8, "little") + header + whole[8 + header_bytes :])
        read = lambda: open_meta(consolidated_shards(meta_folder), lambda file: file, context_length=128)  # noqa: E731
        verdicts[verdict(read)] += 1
    assert verdicts["refused"] > 100


def _wrong(header: dict[str, dict[str, object]], dice: random.Random) -> dict[str, object]:
    """Return a header with a tensor of another type, shape, place or name, or two that lie in one place."""
    one, other = dice.sample(sorted(header.keys() - {"__metadata__"}), 2)
    wrong: dict[str, object] = dict(header)
    change = dice.randrange(6)
    if change < 3:
        choices: list[tuple[str, list[object]]] = [
            ("dtype", ["F16", "I8", "F64", "X", None, 4]),
            ("shape", [[], [0], [1], [1 << 40, 1 << 40], [-1], "x"]),
            ("data_offsets", [[0, 0], [0, 4], [4, 0], [0, 1 << 60], [], None]),
        ]
        key, values = choices[change]
        wrong[one] = header[one] | {key: dice.choice(values)}
    elif change == 3:
        wrong["../" + one] = wrong.pop(one)
    elif change == 4:
        wrong[one] = header[other]
    else:
        wrong[one], wrong[other] = header[other], header[one]
    return wrong


def test_damaged_indexes(tmp_path: Path) -> None:
    folder = write_pickled_hub(tmp_path / "hub", ARCHITECTURE, tiny_weights(ARCHITECTURE), files=2)
    (scratch := tmp_path / "scratch").mkdir()
    assert verdict(lambda: open_huggingface(folder, unpickle=_made_once(scratch))) == "read"
    index, dice, verdicts = folder / "pytorch_model.bin.index.json", random.Random(6), Counter[str]()
    whole = index.read_bytes()
    (tmp_path / "elsewhere.bin").write_bytes((folder / "pytorch_model-00001-of-00002.bin").read_bytes())
    for i in range(100):
        fields = damaged_json(damaged_json(json.loads(whole)["weight_map"], dice), dice)
        if i % 5 == 0:
            fields = dict.fromkeys(
                fields, dice.choice(["../elsewhere.bin", str(tmp_path / "elsewhere.bin"), "..", "."])
            )
        index.write_bytes(damaged(whole, dice) if i % 4 == 0 else json.dumps({"weight_map": fields}).encode())
        verdicts[verdict(lambda: open_huggingface(folder, unpickle=_made_once(scratch)))] += 1
    assert verdicts["refused"] > 80


def _made_once(scratch: Path) -> Callable[[Path], Path]:
    """Return an unpickler that knows a folder's two files, and no others: those are what a child would refuse."""

    def unpickle(path: Path) -> Path:
        output = scratch / path.name
        if not output.exists():
            if not path.is_file() or path.parent.name != "hub":
                raise CheckpointError(f"{path} is missing or not a file")
            convert(path, output)
        return output

    return unpickle


def _damaged_archives(dice: random.Random, folder: Path) -> Iterator[bytes]:
    """Yield damaged files of torch.save: of the whole, and of the pickle alone in an archive that is right."""
    tensors = dict(list(meta_weights(ARCHITECTURE, tiny_weights(ARCHITECTURE)).items())[:4])
    save_torch(tensors, folder / "whole")
    whole = (folder / "whole").read_bytes()
    for _ in range(60):
        yield damaged(whole, dice)
    for _ in range(100):
        with zipfile.ZipFile(folder / "whole") as right, zipfile.ZipFile(folder / "wrong", "w") as wrong:
            for record in right.infolist():
                data = right.read(record)
                is_pickle = record.filename.endswith("data.pkl")
                wrong.writestr(record.filename, damaged(data, dice, 600) if is_pickle else data)
        yield (folder / "wrong").read_bytes()


def test_damaged_archives_in_a_process_under_limits(tmp_path: Path) -> None:
    (cases := tmp_path / "cases").mkdir()
    (outputs := tmp_path / "outputs").mkdir()
    for i, data in enumerate(_damaged_archives(random.Random(7), tmp_path)):
        (cases / f"{i:03}").write_bytes(data)
    command = [sys.executable, "-c", CHILD_FOR_MANY, str(cases), str(outputs)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    told = [message for line in done.stdout.splitlines() if "file" in (message := json.loads(line))]
    assert [message["file"] for message in told] == [f"{i:03}" for i in range(160)]
    refused = [message["verdict"] for message in told if message["verdict"] is not None]
    assert len(refused) > 80 and all(reason.strip() and "\n" not in reason for reason in refused)


def test_damaged_archives_through_the_real_child(tmp_path: Path) -> None:
    dice = random.Random(8)
    cases = list(_damaged_archives(dice, tmp_path))
    for i in (0, 1, 70, 71):
        (path := tmp_path / f"{i}.bin").write_bytes(cases[i])
        try:
            assert Unpickler(tmp_path, lambda *_: None)(path).is_file()
        except CheckpointError as error:
            assert str(path) in str(error)


def test_random_bytes_are_recognised_as_nothing(tmp_path: Path) -> None:
    dice = random.Random(9)
    for i in range(40):
        (path := tmp_path / str(i)).write_bytes(dice.randbytes(dice.choice([0, 3, 40, 5000])))
        with pytest.raises(CheckpointError, match="nothing that can be converted"):
            recognise(path)
