"""tokenizer.json against the `tokenizers` library itself."""

import json
from collections.abc import Callable

import pytest
from tokenizers import Tokenizer as Library

from common.errors import CheckpointError, InvalidRequest
from gateway.tokenizers.tokenizer_json import TokenizerJson
from tests.gateway.tokenizers import samples

FILES: dict[str, Callable[[], bytes]] = {
    "byte_level": samples.byte_level_json,
    "llama_legacy": lambda: samples.llama_json(True),
    "llama": lambda: samples.llama_json(False),
}


def reference(data: bytes) -> Library:
    library = Library.from_str(data.decode())
    library.encode_special_tokens = True
    return library


def with_added(data: bytes, content: str, special: bool = False, **options: bool) -> tuple[bytes, int]:
    """Return a tokenizer.json with one more added token, and its id."""
    spec = json.loads(data)
    token_id = len(spec["model"]["vocab"])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    spec["added_tokens"].append({"id": token_id, "content": content} | flags | options)
    return json.dumps(spec).encode(), token_id


@pytest.mark.parametrize("name", FILES)
def test_ids_and_text_equal_the_library(name: str) -> None:
    data = FILES[name]()
    ours, library = TokenizerJson(data, ""), reference(data)
    assert len(samples.corpus()) >= 3000
    for line in samples.corpus():
        ids = library.encode(line, add_special_tokens=False).ids
        assert ours.encode(line) == ids, line
        assert ours.decode(ids) == library.decode(ids), line
        decoder = ours.decoder()
        assert "".join(map(decoder.push, ids)) + decoder.flush() == library.decode(ids), line


def test_random_ids_of_a_byte_level_vocabulary_decode_as_the_library() -> None:
    data = samples.byte_level_json()
    ours, library = TokenizerJson(data, ""), reference(data)
    for ids in samples.random_ids(ours.vocabulary_size):
        assert ours.decode(ids) == library.decode(ids, skip_special_tokens=True)


def test_random_bytes_decode_as_the_library() -> None:
    data = samples.byte_level_json()
    ours, library = TokenizerJson(data, ""), reference(data)
    vocabulary = library.get_vocab()
    in_bytes = [vocabulary[token] for token in ("ð", "Ł", "ĺ", "Ģ", "í", "ł", "à", "ô", "a", "Á")]
    for ids in samples.random_ids(len(in_bytes) - 5, 3000):
        assert ours.decode(in_bytes[i] for i in ids) == library.decode([in_bytes[i] for i in ids])


@pytest.mark.parametrize("legacy", [True, False])
def test_random_ids_without_broken_bytes_decode_as_the_library(legacy: bool) -> None:
    data = samples.llama_json(legacy)
    ours, library = TokenizerJson(data, ""), reference(data)
    compared = 0
    for ids in samples.random_ids(ours.vocabulary_size, 1500):
        expected = library.decode(ids, skip_special_tokens=True)
        if "\ufffd" not in expected:
            compared += 1
            assert ours.decode(ids) == expected
    assert compared > 100


def test_broken_bytes_become_one_mark_each_and_spare_characters() -> None:
    ours = TokenizerJson(samples.llama_json(True), "")
    first = ours.encode("a😀")[-4:]
    assert ours.decode(first) == "😀"
    assert ours.decode(first[:3]) == "\ufffd" * 3
    assert ours.decode([*first, first[0], *ours.encode("x")]) == "😀\ufffd x"


def test_special_strings_in_text_stay_text() -> None:
    data = samples.byte_level_json()
    ours = TokenizerJson(data, "")
    assert ours.special_tokens == {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    ids = ours.encode("a<|im_end|>b<|endoftext|>")
    assert not {0, 1, 2} & set(ids)
    assert ours.decode(ids) == "a<|im_end|>b<|endoftext|>"
    assert ours.decode([1, *ids, 2]) == "a<|im_end|>b<|endoftext|>"


def test_truncation_padding_post_processor_and_dropout_of_the_file_do_not_act() -> None:
    library = Library.from_str(samples.byte_level_json().decode())
    library.enable_truncation(3)
    library.enable_padding(length=50)
    spec = json.loads(library.to_str())
    spec["model"]["dropout"] = 0.9
    spec["post_processor"] = {"type": "BertProcessing", "sep": ["<|im_end|>", 2], "cls": ["<|im_start|>", 1]}
    ours = TokenizerJson(json.dumps(spec).encode(), "")
    plain = TokenizerJson(samples.byte_level_json(), "")
    text = "def encode(self, text): return"
    assert ours.encode(text) == plain.encode(text)


def test_added_tokens_of_the_vocabulary_are_read_from_text() -> None:
    data, token_id = with_added(samples.byte_level_json(), "        ")
    ours = TokenizerJson(data, "{{ '        ' }}")
    assert ours.encode("x        y")[1] == token_id == reference(data).encode("x        y").ids[1]
    assert ours.decode([token_id]) == "        "
    assert "        " not in ours.special_tokens


def test_added_tokens_that_the_template_writes_are_not_read_from_text() -> None:
    data, token_id = with_added(samples.byte_level_json(), "<think>")
    assert token_id in TokenizerJson(data, "").encode("a<think>b")
    ours = TokenizerJson(data, "{{ '<think>' }}")
    assert ours.special_tokens["<think>"] == token_id
    assert token_id not in ours.encode("a<think>b")
    assert ours.encode_rendered("a<think>b", "\ue000") == [*ours.encode("a"), token_id, *ours.encode("b")]
    assert ours.decode([token_id]) == "<think>"  # not special: its text is shown


def test_a_vocabulary_that_builds_special_tokens_is_caught() -> None:
    spec = json.loads(samples.byte_level_json())
    spec["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    spec["model"]["ignore_merges"] = True
    ours = TokenizerJson(json.dumps(spec).encode(), "")
    with pytest.raises(InvalidRequest, match="control token"):
        ours.encode("<|im_end|>")
    assert ours.encode("<|im_end|>\n")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("options", [{}, {"rstrip": True}, {"lstrip": True}])
def test_rendered_text_equals_the_library_with_and_without_guard(name: str, options: dict[str, bool]) -> None:
    data, _ = with_added(FILES[name](), "<|x|>", special=True, **options)
    ours, library = TokenizerJson(data, ""), Library.from_str(data.decode())
    for line in ("<|x|> a  <|x|><|x|>\n b c", "a <|x|> b", " <|x|>", "a b", "", "<|x|>a"):
        expected = library.encode(line, add_special_tokens=False).ids
        assert ours.encode_rendered(line, "\ue000") == expected, line
        assert ours.encode_rendered(line + "\ue000", "\ue000") == expected, line
        assert ours.encode_rendered(line.replace("a", "\ue000a\ue000"), "\ue000") == expected, line


def test_guarded_special_strings_stay_text() -> None:
    ours = TokenizerJson(samples.byte_level_json(), "")
    guarded = ours.encode_rendered("<|im_start|>a<\ue000|im_end|>b<|im_end|>", "\ue000")
    assert guarded == [1, *ours.encode("a<|im_end|>b"), 2]


def test_a_normalizer_does_not_make_special_tokens() -> None:
    data, token_id = with_added(samples.byte_level_json(), "<think>", normalized=True)
    spec = json.loads(data) | {"normalizer": {"type": "NFKC"}}
    ours = TokenizerJson(json.dumps(spec).encode(), "<think>")
    wide = "\uff1cthink\uff1e"
    assert token_id in Library.from_str(json.dumps(spec)).encode(wide).ids
    assert token_id not in ours.encode(wide)
    assert token_id not in ours.encode_rendered(wide, "\ue000")
    assert ours.encode_rendered("<think>" + wide, "\ue000").count(token_id) == 1


@pytest.mark.parametrize("replacement", ["always", "first", "never"])
def test_metaspace_decoder_equals_the_library(replacement: str) -> None:
    spec = json.loads(samples.llama_json(False))
    spec["decoder"] = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": replacement, "split": True}
    data = json.dumps(spec).encode()
    ours, library = TokenizerJson(data, ""), reference(data)
    for ids in samples.random_ids(ours.vocabulary_size):
        assert ours.decode(ids) == library.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("decoder", "named"),
    [
        ({"type": "WordPiece", "prefix": "##", "cleanup": True}, "WordPiece"),
        (None, "null"),
        ({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}, "ByteFallback"),
        ({"type": "Sequence", "decoders": []}, "not supported"),
    ],
)
def test_other_decoders_are_refused_by_name(decoder: object, named: str) -> None:
    spec = json.loads(samples.llama_json(True)) | {"decoder": decoder}
    with pytest.raises(CheckpointError, match=named):
        TokenizerJson(json.dumps(spec).encode(), "")


def test_other_strips_are_refused() -> None:
    spec = json.loads(samples.llama_json(True))
    spec["decoder"]["decoders"][3]["stop"] = 1
    with pytest.raises(CheckpointError, match="Strip"):
        TokenizerJson(json.dumps(spec).encode(), "")


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"{}", b'{"model": {"type": "?"}}', b"[" * 100_000])
def test_what_is_no_tokenizer_is_refused(data: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        TokenizerJson(data, "")
