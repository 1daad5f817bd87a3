"""Mistral's tekken.json as a vocabulary for tiktoken.

Format: `Tekkenizer` of mistral_common (tokens/tokenizers/tekken.py). Special tokens come first, as many as the config
says, then the tokens by rank, as many as are left of the vocabulary's size: files hold more than are used.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from common.errors import CheckpointError
from common.tiktoken_file import MAX_TOKENS, TiktokenFile, reasons
from shard_worker.checkpoint.source import TokenizerSource

VERSIONS = ("v1", "v2", "v3", "v7", "v11", "v13", "v15")
UNLISTED_UP_TO = ("v1", "v2", "v3", "v7")
"""Versions whose files may leave out the special tokens, which are OLD_SPECIAL_TOKENS then."""
OLD_SPECIAL_TOKENS = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]"),
    *("[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)
BEGIN, END = "<s>", "</s>"


class _Config(BaseModel):
    pattern: str
    default_vocab_size: PositiveInt = Field(le=MAX_TOKENS)
    default_num_special_tokens: NonNegativeInt = Field(le=MAX_TOKENS)
    version: str


class _Token(BaseModel):
    rank: NonNegativeInt
    token_bytes: str


class _SpecialToken(BaseModel):
    rank: NonNegativeInt
    token_str: str


class _Tekken(BaseModel):
    model_config = ConfigDict(extra="ignore")  # images, audio, the model's settings: nothing that changes a text's ids

    config: _Config
    vocab: list[_Token]
    special_tokens: list[_SpecialToken] | None = None


def read_tekken(path: Path, data: bytes, vocabulary_size: int) -> TokenizerSource:
    """Return the tokenizer in a tekken.json. Raises CheckpointError where it is none, or does not fit the model."""
    try:
        tekken = _Tekken.model_validate_json(data)
    except ValidationError as error:
        raise CheckpointError(f"{path}: {reasons(error)}") from error
    config = tekken.config
    if config.version not in VERSIONS:
        raise CheckpointError(f"{path}: version {config.version!r} is none of {', '.join(VERSIONS)}")
    if config.default_vocab_size > vocabulary_size:
        raise CheckpointError(
            f"{path}: {config.default_vocab_size} tokens do not fit in the model's vocabulary of {vocabulary_size}"
        )
    special = _special_tokens(path, tekken)
    plain = tekken.vocab[: config.default_vocab_size - config.default_num_special_tokens]
    if len(plain) + len(special) != config.default_vocab_size:
        raise CheckpointError(f"{path}: {len(plain)} tokens and {len(special)} special ones are not as many as it says")
    if any(token.rank != rank for rank, token in enumerate(plain)):
        raise CheckpointError(f"{path}: the tokens are not in the order of their ranks")
    try:
        file = TiktokenFile(
            pattern=config.pattern,
            first_id=len(special),
            tokens=tuple(token.token_bytes for token in plain),
            special_tokens=special,
        )
    except ValidationError as error:
        raise CheckpointError(f"{path}: {reasons(error)}") from error
    if missing := {BEGIN, END} - special.keys():
        raise CheckpointError(f"{path}: there is no special token {' or '.join(sorted(missing))}")
    return TokenizerSource("tiktoken", file.serialise(), special[BEGIN], (special[END],))


def _special_tokens(path: Path, tekken: _Tekken) -> dict[str, int]:
    """Return all special tokens, those without a name included: Tekkenizer calls them <SPECIAL_20> and so on."""
    config = tekken.config
    if tekken.special_tokens is not None:
        named = [token.token_str for token in sorted(tekken.special_tokens, key=lambda token: token.rank)]
        ranks = sorted(token.rank for token in tekken.special_tokens)
        if ranks != list(range(len(ranks))):
            raise CheckpointError(f"{path}: the special tokens' ranks are not 0 to {len(ranks) - 1}")
    elif config.version in UNLISTED_UP_TO:
        named = list(OLD_SPECIAL_TOKENS)
    else:
        raise CheckpointError(f"{path}: there are no special_tokens, which version {config.version} must list")
    if len(named) > config.default_num_special_tokens:
        raise CheckpointError(
            f"{path}: {len(named)} special tokens are more than the {config.default_num_special_tokens} it says"
        )
    names = [*named, *(f"<SPECIAL_{id}>" for id in range(len(named), config.default_num_special_tokens))]
    special = {name: id for id, name in enumerate(names)}
    if len(special) < len(names):
        raise CheckpointError(f"{path}: a special token is there twice")
    return special
