"""Texts and tokenizers that the tests of this folder and of tests/gateway/chat share."""

import functools
import hashlib
import json
import random
import sysconfig
from importlib.resources import files
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from common.manifest import Architecture, Manifest, Quantization, Rope, TokenizerFile

SOURCES = ("argparse.py", "ast.py", "difflib.py", "json/decoder.py", "textwrap.py", "typing.py")
BLOCKS = (
    (0x00, 0x20),
    (0x20, 0x7F),
    (0x7F, 0x100),
    (0x100, 0x250),
    (0x300, 0x370),  # combining marks
    (0x370, 0x530),
    (0x590, 0x700),  # Hebrew, Arabic
    (0x900, 0xE00),
    (0x2000, 0x2070),  # spaces, joiners, directions
    (0x2190, 0x2600),  # arrows, box drawing, and the special U+2581
    (0x3040, 0x3100),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0xE000, 0xE010),
    (0xFE00, 0xFE10),
    (0xFF00, 0xFFF0),
    (0x10300, 0x10400),
    (0x1F300, 0x1FAFF),
    (0xE0100, 0xE01EF),
)
WORDS = (
    "  ",
    "\t",
    "\n\n",
    "\r\n",
    "\0",
    " the",
    "2024",
    "don't",
    "e\u0301",
    "👩‍👩‍👧‍👦",
    "🏳️‍🌈",
    "👍🏽",
    "🇨🇭",
    "日本語",
    "العربية",
    "<s>",
    "</s>",
    "[INST]",
    "<|im_end|>",
    "<0x41>",
    "\u2581",
    "\u2581\u2581x",
    "\ufffd",
)


@functools.cache
def source_lines() -> list[str]:
    """Return lines of the standard library."""
    folder = Path(sysconfig.get_path("stdlib"))
    return [line for name in SOURCES for line in (folder / name).read_text(encoding="utf-8").splitlines()]


@functools.cache
def corpus(size: int = 5200) -> list[str]:
    """Return `size` lines: code, random characters of many blocks, and mixtures; always the same ones."""
    draw = random.Random(20240229)
    code = source_lines()

    def noise() -> str:
        low, high = draw.choice(BLOCKS)
        return "".join(chr(draw.randrange(low, high)) for _ in range(draw.randrange(1, 24)))

    def line(index: int) -> str:
        if index % 3 == 0:
            return draw.choice(code)
        return "".join(
            draw.choice((noise, lambda: draw.choice(WORDS), lambda: draw.choice(code)[:12]))()
            for _ in range(draw.randrange(1, 9))
        )

    return ["", " ", "  ", "\u2581", "\n", *map(line, range(size))]


def random_ids(size: int, count: int = 400) -> list[list[int]]:
    """Return sequences of random ids, some of them outside a vocabulary of `size`."""
    draw = random.Random(7)
    return [[draw.randrange(size + 5) for _ in range(draw.randrange(1, 30))] for _ in range(count)]


def _train(tokenizer: Tokenizer, special: list[str], size: int, alphabet: list[str]) -> dict[str, Any]:
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(source_lines(), trainer)
    spec: dict[str, Any] = json.loads(tokenizer.to_str())
    return spec


@functools.cache
def byte_level_json(
    special: tuple[str, ...] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), digits: bool = True
) -> bytes:
    """Return a GPT-2-like tokenizer.json with SmolLM2's pre-tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), byte_level] if digits else [byte_level]
    )
    tokenizer.decoder = decoders.ByteLevel()
    spec = _train(tokenizer, list(special), 1200, pre_tokenizers.ByteLevel.alphabet())
    return json.dumps(spec).encode()


@functools.cache
def llama_json(legacy: bool, special: tuple[str, ...] = ("<unk>", "<s>", "</s>")) -> bytes:
    """Return a Llama-2-like tokenizer.json.

    `legacy` puts a space before every piece of text between special tokens, else only before the whole text.
    """
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    spec = _train(tokenizer, [*special, *bytes_], 1600, ["\u2581"])
    spec["added_tokens"] = spec["added_tokens"][: len(special)]
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    changed = json.loads(tokenizer.to_str())
    spec["decoder"] = changed["decoder"]
    spec["normalizer"] = changed["normalizer"] if legacy else None
    spec["pre_tokenizer"] = None if legacy else changed["pre_tokenizer"]
    return json.dumps(spec).encode()


def sentencepiece_models() -> list[Path]:
    """Return the SentencePiece models that mistral_common carries."""
    folder = Path(str(files("mistral_common"))) / "data"
    return sorted(path for path in folder.iterdir() if ".model" in path.name)


def manifest_for(
    data: bytes,
    kind: str = "tokenizer_json",
    bos_id: int | None = None,
    end_of_text_ids: tuple[int, ...] = (),
    chat_template: str | None = None,
    vocabulary_size: int = 1 << 17,
) -> Manifest:
    """Return a manifest whose tokenizer file is "tokenizer" with content `data`."""
    architecture = Architecture(
        family="llama",
        layers=1,
        hidden_size=8,
        intermediate_size=8,
        query_heads=1,
        kv_heads=1,
        head_dim=8,
        vocabulary_size=vocabulary_size,
        context_length=64,
        norm_eps=1e-5,
        rope=Rope(theta=1e4),
        tied_embeddings=True,
    )
    digest = hashlib.sha256(data).hexdigest()
    return Manifest(
        name="test",
        source="test",
        architecture=architecture,
        dtype="float32",
        quantization=Quantization(mode="none"),
        tokenizer=TokenizerFile.model_validate({"kind": kind, "file": "tokenizer", "sha256": digest, "bos_id": bos_id}),
        end_of_text_ids=end_of_text_ids,
        chat_template=chat_template,
        files={},
    )
