"""Which tokenizer a checkpoint has."""

from pathlib import Path

from common.errors import CheckpointError
from common.manifest import Manifest
from gateway.tokenizers.checkpoint_files import read_chat_template, read_tokenizer
from gateway.tokenizers.interface import Tokenizer
from gateway.tokenizers.sentencepiece import SentencePieceTokenizer
from gateway.tokenizers.tiktoken import TiktokenTokenizer
from gateway.tokenizers.tokenizer_json import TokenizerJson


def load_tokenizer(folder: Path, manifest: Manifest) -> Tokenizer:
    """Return the tokenizer of the checkpoint in `folder`.

    Raises CheckpointError when its file is missing, changed or of a form that cannot be served exactly, or
    when it does not fit the model.
    """
    data = read_tokenizer(folder, manifest)
    template = read_chat_template(folder, manifest) or ""
    tokenizer: Tokenizer
    if manifest.tokenizer.kind == "tokenizer_json":
        tokenizer = TokenizerJson(data, template)
    elif manifest.tokenizer.kind == "tiktoken":
        tokenizer = TiktokenTokenizer(data)
    else:
        tokenizer = SentencePieceTokenizer(data, template)
    _check_fit(tokenizer, manifest)
    return tokenizer


def _check_fit(tokenizer: Tokenizer, manifest: Manifest) -> None:
    size, embedded = tokenizer.vocabulary_size, manifest.architecture.vocabulary_size
    if size > embedded:
        raise CheckpointError(f"the tokenizer knows {size} ids, but the model embeds only {embedded}")
    bos_id = manifest.tokenizer.bos_id
    for name, token_id in (("bos_id", bos_id), *(("end_of_text_ids", i) for i in manifest.end_of_text_ids)):
        if token_id is not None and not 0 <= token_id < embedded:
            raise CheckpointError(f"{name} {token_id} is outside the model's vocabulary of {embedded}")
