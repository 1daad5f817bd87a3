"""Tokenizers rebuilt from GGUF vocabularies, against the ones they came from."""

import io
import json
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from common.errors import CheckpointError
from shard_worker.checkpoint.gguf_metadata import GgufMetadata
from shard_worker.checkpoint.gguf_tokenizer import LLAMA3_SPLIT, build_tokenizer
from tests.support.tiny_gguf import as_stored

CORPUS = [
    "The quick brown fox jumps over the lazy dog. The dog sleeps; the fox doesn't.",
    "In 1969, 12345 people saw 3.14159 and said: “It's fine, isn't it?” We'll see, they'd say.",
    "def f(x):\n    return x + 1\n\n\nprint(f(41))\t# forty-two",
    "Größe, naïve café, 東京は日本の首都です。 Привет, мир! 🙂 👩‍👩‍👧",
] * 3
TEXTS = [
    *CORPUS[:4],
    "",
    " ",
    "  two  spaces and\ttabs \n\n newlines \r\n",
    "0123456789 1 22 333 4444",
    "unseen: ŽŮŇ ⟨⅋⟩ \x00\x7f",
    "Don't DON'T we'RE",
]
SMOLLM = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
)
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
LLAMA3 = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def trained_bpe(pre_tokenizer: Any, ignore_merges: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def as_metadata(tokenizer: Tokenizer, pre: str, **changes: Any) -> tuple[GgufMetadata, int]:
    size = tokenizer.get_vocab_size()
    tokens = [tokenizer.id_to_token(i) for i in range(size)]
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    entries: dict[str, Any] = {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": [3 if token in SPECIALS else 1 for token in tokens],
        "merges": [" ".join(merge) for merge in merges],
        "bos_token_id": 1,
        "eos_token_id": 2,
    } | changes
    return GgufMetadata(as_stored({f"tokenizer.ggml.{k}": v for k, v in entries.items() if v is not None})), size


@pytest.mark.parametrize(
    ("pre", "pre_tokenizer", "ignore_merges"),
    [("smollm", SMOLLM, False), ("gpt-2", GPT2, False), ("llama-bpe", LLAMA3, True)],
)
def test_byte_level_bpe_comes_back(pre: str, pre_tokenizer: Any, ignore_merges: bool) -> None:
    original = trained_bpe(pre_tokenizer, ignore_merges)
    source = build_tokenizer(*as_metadata(original, pre))
    rebuilt = Tokenizer.from_buffer(source.data)
    assert source.kind == "tokenizer_json"
    assert rebuilt.get_vocab() == original.get_vocab()
    for text in [*TEXTS, "<|im_start|>user\nhi 12<|im_end|>"]:
        ids = original.encode(text).ids
        assert rebuilt.encode(text).ids == ids
        assert rebuilt.decode(ids) == original.decode(ids)
    assert rebuilt.decode(rebuilt.encode("<|im_end|>x").ids, skip_special_tokens=True) == "x"


@pytest.mark.parametrize("pre", ["qwen2", "deepseek-r1-qwen"])
def test_qwen2_is_transformers(pre: str) -> None:
    trained = trained_bpe(LLAMA3, False)
    merges: Any = [tuple(merge) for merge in json.loads(trained.to_str())["model"]["merges"]]
    theirs = Qwen2Tokenizer(vocab=trained.get_vocab(), merges=merges)
    rebuilt = Tokenizer.from_buffer(build_tokenizer(*as_metadata(trained, pre)).data)
    for text in [*TEXTS, "e\u0301 A\u030a combined", "<|endoftext|>x"]:
        assert rebuilt.encode(text).ids == theirs.encode(text, add_special_tokens=False), text


def test_the_pre_tokenizers_differ_on_digits() -> None:
    splits = {}
    for pre in ("smollm", "gpt-2", "llama-bpe", "qwen2"):
        data = build_tokenizer(*as_metadata(trained_bpe(GPT2, False), pre)).data
        pre_tokenizer = Tokenizer.from_buffer(data).pre_tokenizer
        assert pre_tokenizer is not None
        splits[pre] = [word for word, _ in pre_tokenizer.pre_tokenize_str("1234 x")]
    assert splits == {
        "smollm": ["1", "2", "3", "4", "Ġx"],
        "gpt-2": ["1234", "Ġx"],
        "llama-bpe": ["123", "4", "Ġx"],
        "qwen2": ["1", "2", "3", "4", "Ġx"],
    }


def test_added_tokens_of_both_kinds() -> None:
    original = trained_bpe(GPT2, False)
    types = [1] * original.get_vocab_size()
    types[:3] = [2, 3, 4]
    rebuilt = Tokenizer.from_buffer(build_tokenizer(*as_metadata(original, "gpt-2", token_type=types)).data)
    assert {t.content: t.special for t in rebuilt.get_added_tokens_decoder().values()} == dict(
        zip(SPECIALS, [True, True, False], strict=True)
    )


@pytest.mark.parametrize(
    ("pre", "add_bos", "bos_id"),
    [("smollm", None, None), ("smollm", True, 1), ("llama-bpe", None, 1), ("llama-bpe", False, None)],
)
def test_bos_is_added_where_the_file_or_its_kind_says_so(pre: str, add_bos: bool | None, bos_id: int | None) -> None:
    metadata = as_metadata(trained_bpe(GPT2, False), pre, add_bos_token=add_bos)
    assert build_tokenizer(*metadata).bos_id == bos_id


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pre": "deepseek-coder"}, "pre-tokenizer 'deepseek-coder'"),
        ({"pre": None}, "pre-tokenizer 'default'"),
        ({"model": "bert"}, "tokenizer model 'bert'"),
        ({"merges": ["a"]}, "'a' does not merge"),
        ({"merges": ["a ☃"]}, "'a ☃' does not merge"),
        ({"merges": None}, "merges is missing"),
        ({"tokens": ["a", "b"]}, "tokens is not an array of"),
        ({"token_type": [9] * 400}, "9 is not a valid PieceType"),
        ({"add_space_prefix": True}, "add_space_prefix is true"),
        ({"add_eos_token": True}, "add_eos_token is true"),
        ({"add_bos_token": True, "bos_token_id": None}, "bos_token_id is missing"),
    ],
)
def test_what_cannot_be_rebuilt_is_named(changes: dict[str, Any], reason: str) -> None:
    metadata, size = as_metadata(trained_bpe(GPT2, False), **({"pre": "gpt-2"} | changes))
    assert size == 400
    with pytest.raises(CheckpointError, match=reason):
        build_tokenizer(metadata, size)


def test_a_token_that_is_there_twice_is_refused() -> None:
    original = trained_bpe(GPT2, False)
    tokens = [original.id_to_token(i) for i in range(400)]
    with pytest.raises(CheckpointError, match="names a token twice"):
        build_tokenizer(*as_metadata(original, "gpt-2", tokens=[*tokens[:399], tokens[0]]))


@pytest.fixture(scope="module")
def sentencepiece() -> SentencePieceProcessor:
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 5),
        model_writer=model,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=["<sep>"],
        minloglevel=2,
    )
    return SentencePieceProcessor(model_proto=model.getvalue())


def spm_entries(original: SentencePieceProcessor, **changes: Any) -> tuple[GgufMetadata, int]:
    def kind(i: int) -> int:
        if original.is_unknown(i):
            return 2
        if original.is_control(i):
            return 3
        if original.is_byte(i):
            return 6
        return 4 if original.id_to_piece(i) == "<sep>" else 1

    size = original.vocab_size()
    entries: dict[str, Any] = {
        "model": "llama",
        "tokens": [original.id_to_piece(i) for i in range(size)],
        "scores": [original.get_score(i) for i in range(size)],
        "token_type": [kind(i) for i in range(size)],
        "bos_token_id": original.bos_id(),
        "eos_token_id": original.eos_id(),
    } | changes
    return GgufMetadata(as_stored({f"tokenizer.ggml.{k}": v for k, v in entries.items() if v is not None})), size


def test_sentencepiece_comes_back(sentencepiece: SentencePieceProcessor) -> None:
    source = build_tokenizer(*spm_entries(sentencepiece))
    assert (source.kind, source.bos_id) == ("sentencepiece", sentencepiece.bos_id())
    rebuilt = SentencePieceProcessor(model_proto=source.data)
    assert (rebuilt.bos_id(), rebuilt.eos_id(), rebuilt.unk_id()) == (1, 2, 0)
    for text in [*TEXTS, "a<sep>b <sep>", "<s>not a token</s>"]:
        ids = sentencepiece.encode(text)
        assert rebuilt.encode(text) == ids
        assert rebuilt.decode(ids) == sentencepiece.decode(ids)


def test_sentencepiece_without_a_space_before_the_text(sentencepiece: SentencePieceProcessor) -> None:
    source = build_tokenizer(*spm_entries(sentencepiece, add_space_prefix=False, add_bos_token=False))
    rebuilt = SentencePieceProcessor(model_proto=source.data)
    assert source.bos_id is None
    assert "".join(rebuilt.encode("The dog", out_type=str)) == "The▁dog"
    assert "".join(sentencepiece.encode("The dog", out_type=str)) == "▁The▁dog"


def test_sentencepiece_needs_scores_and_one_unknown_token(sentencepiece: SentencePieceProcessor) -> None:
    with pytest.raises(CheckpointError, match="scores is missing"):
        build_tokenizer(*spm_entries(sentencepiece, scores=None))
    with pytest.raises(CheckpointError, match="0 unknown tokens, not 1"):
        build_tokenizer(*spm_entries(sentencepiece, token_type=[1] * sentencepiece.vocab_size()))
