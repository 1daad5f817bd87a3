"""A tiny random Llama: a checkpoint made the way a user makes one, and transformers' own model beside it."""

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from shard_worker.checkpoint.from_huggingface import open_huggingface
from shard_worker.checkpoint.output_folder import OutputFolder
from shard_worker.checkpoint.weight_shapes import Dtype
from shard_worker.checkpoint.writer import write_checkpoint

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END_OF_TURN_ID = 258
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@dataclass(frozen=True)
class TinyShape:
    """Sizes of a tiny model; by default none of them divides by 2, 3 or 4 where it need not."""

    query_heads: int = 6
    kv_heads: int = 3
    head_dim: int = 8
    intermediate_size: int = 53
    layers: int = 2
    vocabulary_size: int = 263
    context_length: int = 1024
    tied: bool = False
    llama3_rope: bool = False

    @property
    def hidden_size(self) -> int:
        """A multiple of the heads, as transformers asks, but not heads * head_dim."""
        return 7 * self.query_heads


@dataclass(frozen=True)
class TinyModel:
    """The checkpoint's folder, and the model it was made of, float32 and in evaluation mode."""

    folder: Path
    reference: LlamaForCausalLM


def make_tiny_model(folder: Path, shape: TinyShape | None = None, dtype: Dtype = "float32", seed: int = 0) -> TinyModel:
    """Write a random model of this shape (the default one without) to `folder`/huggingface and convert it to
    `folder`/checkpoint.

    The tokenizer has one token per byte and the three special tokens of ChatML. The same seed gives the same model.
    """
    reference = random_model(shape or TinyShape(), seed)
    return TinyModel(convert_tiny(folder, reference, dtype), reference)


def convert_tiny(folder: Path, reference: PreTrainedModel, dtype: Dtype = "float32") -> Path:
    """Save a model of transformers' to `folder`/huggingface, and return the checkpoint that becomes of it."""
    foreign = folder / "huggingface"
    reference.save_pretrained(foreign)
    byte_tokenizer().save(str(foreign / "tokenizer.json"))
    (foreign / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    with OutputFolder(folder / "checkpoint") as output:
        write_checkpoint(open_huggingface(foreign), output, "tiny", dtype, lambda what, done, total: None)
    return folder / "checkpoint"


def byte_tokenizer() -> Tokenizer:
    """Return a byte-level tokenizer without merges: 256 bytes, then the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={piece: id for id, piece in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS])
    return tokenizer


def random_model(shape: TinyShape, seed: int) -> LlamaForCausalLM:
    """Return a random model of this shape, float32 and in evaluation mode; the same seed gives the same model."""
    config = LlamaConfig(
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.query_heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocabulary_size,
        max_position_embeddings=shape.context_length,
        rope_parameters={"rope_theta": 10_000.0, **(LLAMA3_ROPE if shape.llama3_rope else {"rope_type": "default"})},
        tie_word_embeddings=shape.tied,
        # Wide enough that attention is not flat and greedy ids vary.
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=END_OF_TURN_ID if shape.vocabulary_size > END_OF_TURN_ID else None,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        for parameter in model.parameters():
            if parameter.dim() == 1:  # a norm's weight, which starts as ones and would hide a missing load
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.train(False)
    return model
