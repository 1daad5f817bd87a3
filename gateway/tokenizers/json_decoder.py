"""The decoder of a `tokenizer.json` as a table from ids to bytes."""

import json
import re
from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer as Library
from tokenizers.models import BPE

from common.errors import CheckpointError
from gateway.tokenizers.piece_table import EACH_BYTE, EACH_SUBPART, PieceTable

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def read_piece_table(library: Library) -> PieceTable:
    """Return the table of a tokenizer.

    Decoding through it equals the library's `decode(ids, skip_special_tokens=True)`, with one exception.
    Where bytes of the ByteFallback decoder do not form characters, the library turns the whole run of bytes
    into U+FFFD, valid characters included, which cannot be known while streaming. Here, as in SentencePiece,
    the characters of the run are kept and every other byte becomes one U+FFFD.

    Raises CheckpointError, by name, for decoders other than ByteLevel, Metaspace and the sequence Replace,
    ByteFallback, Fuse and optionally Strip.
    """
    decoder = _described(library)
    steps = decoder["decoders"] if _type(decoder) == "Sequence" else [decoder]
    names = [_type(step) for step in steps]
    tokens = _tokens(library)
    if names == ["ByteLevel"]:
        characters = _byte_of_character()
        return PieceTable([_map(token, lambda t: _byte_level(t, characters)) for token in tokens], EACH_SUBPART)
    if names == ["Metaspace"]:
        return _metaspace(tokens, steps[0])
    if names[:3] == ["Replace", "ByteFallback", "Fuse"] and names[3:] in ([], ["Strip"]):
        return _byte_fallback(tokens, steps)
    raise CheckpointError(f"tokenizer.json: the decoder {' + '.join(names)} is not supported")


def _tokens(library: Library) -> list[str | None]:
    """Return every id's token; None for gaps and special tokens."""
    special = {token.content for token in library.get_added_tokens_decoder().values() if token.special}
    size = max(library.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    tokens = [library.id_to_token(token_id) for token_id in range(size)]
    return [None if token in special else token for token in tokens]


def _described(library: Library) -> Any:
    """Return the decoder's JSON in the library's current form, whatever the age of the file."""
    bare = Library(BPE())
    if library.decoder is not None:
        bare.decoder = library.decoder
    return json.loads(bare.to_str())["decoder"]


def _type(step: Any) -> str:
    return str(step.get("type")) if isinstance(step, dict) else "null"


def _map(token: str | None, to_bytes: Callable[[str], bytes]) -> bytes | None:
    return None if token is None else to_bytes(token)


def _byte_of_character() -> dict[str, int]:
    """Return GPT-2's alphabet: printable bytes stand for themselves, others for code points from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _byte_level(token: str, characters: dict[str, int]) -> bytes:
    try:
        return bytes([characters[character] for character in token])
    except KeyError:  # an added token, written as it is read
        return token.encode()


def _metaspace(tokens: list[str | None], step: dict[str, Any]) -> PieceTable:
    mark = step["replacement"]
    pieces = [_map(token, lambda t: t.replace(mark, " ").encode()) for token in tokens]
    leading = {}
    if step.get("prepend_scheme", "always") != "never":
        leading = {i: token.replace(mark, "").encode() for i, token in enumerate(tokens) if token and mark in token}
    return PieceTable(pieces, EACH_SUBPART, leading)


def _byte_fallback(tokens: list[str | None], steps: list[dict[str, Any]]) -> PieceTable:
    pattern, content = steps[0]["pattern"].get("String"), steps[0]["content"]
    if not pattern:
        raise CheckpointError("tokenizer.json: the decoder Replace is supported with a plain string only")

    def to_bytes(token: str) -> bytes:
        token = token.replace(pattern, content)
        byte = BYTE_TOKEN.fullmatch(token)
        return bytes([int(byte[1], 16)]) if byte else token.encode()

    pieces = [_map(token, to_bytes) for token in tokens]
    leading: dict[int, bytes] = {}
    if len(steps) == 4:
        strip = steps[3]
        if (strip["content"], strip["start"], strip["stop"]) != (" ", 1, 0):
            raise CheckpointError("tokenizer.json: the decoder Strip is supported for one leading space only")
        leading = {i: piece[1:] for i, piece in enumerate(pieces) if piece and piece.startswith(b" ")}
    return PieceTable(pieces, EACH_BYTE, leading)
