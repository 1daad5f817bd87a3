"""The tokenizer's file from a GGUF file's vocabulary."""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from common.errors import CheckpointError
from shard_worker.checkpoint.gguf_metadata import GgufMetadata
from shard_worker.checkpoint.sentencepiece_model import Piece, PieceType, serialise_bpe
from shard_worker.checkpoint.source import TokenizerSource

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN2_NAMES = ("qwen2", "deepseek-r1-qwen")
LLAMA3_NAMES = ("llama-bpe", "llama3", "llama-v3")
"""llama.cpp's names of one and the same pre-tokenizer."""


def build_tokenizer(metadata: GgufMetadata, vocabulary_size: int) -> TokenizerSource:
    """Return the tokenizer that the keys `tokenizer.ggml.*` describe.

    Byte-level BPE (`gpt2`) becomes a tokenizer.json, SentencePiece BPE (`llama`) a tokenizer.model: each is
    read by the library whose algorithm the vocabulary was trained for, so ids are exact. Raises
    CheckpointError, naming it, for any other model or pre-tokenizer.
    """
    model = metadata.require("tokenizer.ggml.model", str)
    pre = metadata.get("tokenizer.ggml.pre", str, "default")
    add_bos_by_default = model == "llama" or pre in LLAMA3_NAMES
    add_bos = metadata.get("tokenizer.ggml.add_bos_token", bool, add_bos_by_default)
    bos_id = metadata.require("tokenizer.ggml.bos_token_id", int) if add_bos else None
    if metadata.get("tokenizer.ggml.add_eos_token", bool, False):
        raise CheckpointError("GGUF key tokenizer.ggml.add_eos_token is true, which is not supported")
    tokens = metadata.array("tokenizer.ggml.tokens", str, vocabulary_size)
    types = _types(metadata.array("tokenizer.ggml.token_type", int, vocabulary_size))
    if model == "gpt2":
        return TokenizerSource("tokenizer_json", _byte_level_bpe(metadata, pre, tokens, types), bos_id)
    if model == "llama":
        return TokenizerSource("sentencepiece", _sentencepiece_bpe(metadata, tokens, types), bos_id)
    raise CheckpointError(f"GGUF tokenizer model {model!r} is not supported, only 'gpt2' and 'llama'")


def _types(numbers: list[int]) -> list[PieceType]:
    try:
        return [PieceType(number) for number in numbers]
    except ValueError as error:
        raise CheckpointError(f"GGUF key tokenizer.ggml.token_type: {error}") from error


def _byte_level_bpe(metadata: GgufMetadata, pre: str, tokens: list[str], types: list[PieceType]) -> bytes:
    for key in ("add_space_prefix", "remove_extra_whitespaces"):
        if metadata.get(f"tokenizer.ggml.{key}", bool, False):
            raise CheckpointError(f"GGUF key tokenizer.ggml.{key} is true, which is not supported with 'gpt2'")
    pre_tokenizer = _pre_tokenizer(pre)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise CheckpointError("GGUF key tokenizer.ggml.tokens names a token twice")
    merges = []
    for merge in metadata.array("tokenizer.ggml.merges", str, at_most=len(tokens)):
        left, space, right = merge.partition(" ")
        if not space or not {left, right, left + right} <= vocabulary.keys():
            raise CheckpointError(f"GGUF key tokenizer.ggml.merges: {merge!r} does not merge two tokens into a third")
        merges.append((left, right))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre in LLAMA3_NAMES))
    tokenizer.pre_tokenizer = pre_tokenizer
    if pre in QWEN2_NAMES:
        tokenizer.normalizer = normalizers.NFC()  # Qwen's own tokenizer.json has it, llama.cpp leaves it out
    tokenizer.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, types, strict=True):
        if kind in (PieceType.CONTROL, PieceType.UNKNOWN):
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif kind == PieceType.USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)])
    return tokenizer.to_str(pretty=False).encode()


def _pre_tokenizer(pre: str) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre in ("gpt-2", "smollm"))
    if pre == "gpt-2":
        return byte_level
    if pre == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    if pre in LLAMA3_NAMES + QWEN2_NAMES:
        split = LLAMA3_SPLIT if pre in LLAMA3_NAMES else QWEN2_SPLIT
        return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), byte_level])
    raise CheckpointError(f"GGUF pre-tokenizer {pre!r} is not supported, only smollm, gpt-2, llama-bpe and qwen2")


def _sentencepiece_bpe(metadata: GgufMetadata, tokens: list[str], types: list[PieceType]) -> bytes:
    scores = metadata.array("tokenizer.ggml.scores", float, len(tokens))
    unknown = [i for i, kind in enumerate(types) if kind == PieceType.UNKNOWN]
    if len(unknown) != 1:
        raise CheckpointError(f"GGUF key tokenizer.ggml.token_type: {len(unknown)} unknown tokens, not 1")
    bos_id = metadata.get("tokenizer.ggml.bos_token_id", int, -1)
    eos_id = metadata.get("tokenizer.ggml.eos_token_id", int, -1)
    add_dummy_prefix = metadata.get("tokenizer.ggml.add_space_prefix", bool, True)
    remove_extra_whitespaces = metadata.get("tokenizer.ggml.remove_extra_whitespaces", bool, False)
    return serialise_bpe(
        [Piece(*piece) for piece in zip(tokens, scores, types, strict=True)],
        unk_id=unknown[0],
        bos_id=bos_id,
        eos_id=eos_id,
        add_dummy_prefix=add_dummy_prefix,
        remove_extra_whitespaces=remove_extra_whitespaces,
    )
