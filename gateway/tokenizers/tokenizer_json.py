"""The `tokenizer.json` of the `tokenizers` library, for plain text and for rendered chats."""

import copy
import json
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import Tokenizer as Library

from common.errors import CheckpointError, InvalidRequest
from gateway.tokenizers.json_decoder import read_piece_table
from gateway.tokenizers.piece_table import PieceDecoder
from gateway.tokenizers.special_strings import is_control


class TokenizerJson:
    """A tokenizer read by the `tokenizers` library (Tokenizer).

    Control tokens are the added tokens that the file calls special, and those that the chat template writes.
    Plain text never yields them. Other added tokens are part of the vocabulary: plain text yields them as the
    library does.
    """

    def __init__(self, data: bytes, template: str) -> None:
        """Read the file's bytes; `template` is the chat template's source, or "".

        Raises CheckpointError for a file the library cannot read and for a decoder that is not supported.
        """
        spec = _read_spec(data)
        self._rendered = _load(spec)
        added = self._rendered.get_added_tokens_decoder()
        self._control = {
            token.content: token_id
            for token_id, token in sorted(added.items())
            if token.special or is_control(token.content, template)
        }
        self._contents = {token_id: content for content, token_id in self._control.items()}
        self._forbidden = self._contents.keys() - {_unknown_id(spec, self._rendered)}
        self._table = read_piece_table(self._rendered)

        plain = _with_special(spec, self._control)
        self._plain = _load(plain)
        self._plain.encode_special_tokens = True
        continuing = _without_first_prefix(plain)
        self._continuing = self._plain
        if continuing is not None:
            self._continuing = _load(continuing)
            self._continuing.encode_special_tokens = True

    @property
    def vocabulary_size(self) -> int:
        """The highest id of the vocabulary or an added token, plus 1."""
        return len(self._table.pieces)

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Control tokens by content."""
        return self._control

    def encode(self, text: str) -> list[int]:
        """Return the ids of plain text, as the library's with `encode_special_tokens` and no post-processor."""
        return self._encode(text, at_start=True)

    def encode_rendered(self, text: str, guard: str) -> list[int]:
        """Return the ids of a rendered chat template. The library itself finds the special tokens.

        What stands between them is encoded again as plain text where it holds the guard, or where the
        library's normalizer made a special token of something else.
        """
        encoding = self._rendered.encode(text, add_special_tokens=False)
        ids: list[int] = encoding.ids
        controls = [index for index, token_id in enumerate(ids) if token_id in self._contents]
        offsets = encoding.offsets if controls else []
        intact = [i for i in controls if text[slice(*offsets[i])].strip() == self._contents[ids[i]].strip()]
        if guard not in text and len(intact) == len(controls):
            return ids
        result: list[int] = []
        start = 0
        for index in intact:
            begin, end = offsets[index]
            result += self._encode(text[start:begin].replace(guard, ""), at_start=start == 0)
            result.append(ids[index])
            start = end
        return result + self._encode(text[start:].replace(guard, ""), at_start=start == 0)

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the text, as the library does with `skip_special_tokens` (see `read_piece_table`)."""
        return self._table.decode(token_ids)

    def decoder(self) -> PieceDecoder:
        """Return a decoder for a new stream."""
        return PieceDecoder(self._table)

    def _encode(self, text: str, at_start: bool) -> list[int]:
        library = self._plain if at_start else self._continuing
        ids: list[int] = library.encode(text, add_special_tokens=False).ids
        if not self._forbidden.isdisjoint(ids):
            raise InvalidRequest("prompt", "the vocabulary would read a control token out of plain text")
        return ids


def _read_spec(data: bytes) -> dict[str, Any]:
    """Return the file's JSON without what must not act here: cutting, padding, added ids, random merges."""
    try:
        spec = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"tokenizer.json is not JSON: {error}") from error
    if not isinstance(spec, dict) or not isinstance(spec.get("model"), dict):
        raise CheckpointError("tokenizer.json holds no model")
    spec["model"].pop("dropout", None)
    return spec | {"truncation": None, "padding": None, "post_processor": None}


def _load(spec: dict[str, Any]) -> Library:
    try:
        return Library.from_str(json.dumps(spec))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"tokenizer.json is not valid: {error}") from error


def _unknown_id(spec: dict[str, Any], library: Library) -> int | None:
    """Return the id that stands for characters outside the vocabulary; plain text may well yield it."""
    model = spec["model"]
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    unknown = model.get("unk_token")
    return library.token_to_id(unknown) if unknown else None


def _with_special(spec: dict[str, Any], control: Mapping[str, int]) -> dict[str, Any]:
    added = [token | {"special": token["content"] in control} for token in spec.get("added_tokens", [])]
    return spec | {"added_tokens": added}


def _without_first_prefix(spec: dict[str, Any]) -> dict[str, Any] | None:
    """Return the spec for text that follows a control token, where that differs.

    Metaspace with prepend_scheme "first" puts a space before the beginning of the text only. The other
    schemes, and the Prepend normalizer, treat every piece between added tokens alike.
    """
    changed = copy.deepcopy(spec["pre_tokenizer"]) if spec.get("pre_tokenizer") else {}
    first = [
        step
        for step in (changed, *changed.get("pretokenizers", ()))
        if step.get("type") == "Metaspace" and step.get("prepend_scheme") == "first"
    ]
    for step in first:
        step["prepend_scheme"] = "never"
    return spec | {"pre_tokenizer": changed} if first else None
