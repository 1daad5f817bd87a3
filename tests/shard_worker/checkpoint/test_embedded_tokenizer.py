"""The embedded model's tokenizer against ids that another reader of the same GGUF file gave."""

import hashlib
import random
from pathlib import Path

from tokenizers import Tokenizer

LINES = 4000
# SHA-256 over all ids (i32, little endian, -1 after each line) of the lines below, as transformers 5.23 encodes them
# with its own GGUF reader, its pre-tokenizer set to SmolLM2's: single digits, then byte level.
REFERENCE_SHA256 = "ed67d094be252e09844d20e75d4c453b9c97e7811750dd678262ccc4e5651821"

RANGES = {
    "latin": (0x20, 0x17F),
    "greek and cyrillic": (0x370, 0x4FF),
    "hebrew and arabic": (0x590, 0x6FF),
    "devanagari": (0x900, 0x97F),
    "punctuation and symbols": (0x2000, 0x2BFF),
    "cjk": (0x4E00, 0x9FFF),
    "hangul": (0xAC00, 0xD7A3),
    "emoji": (0x1F300, 0x1FAFF),
    "control": (0x00, 0x1F),
    "combining": (0x300, 0x36F),
}
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "lazy",
    "dogs",
    "def",
    "class",
    "return",
    "lambda",
    "self.x",
    "+=",
    "1;",
    "if",
    "(a",
    "!=",
    "b)",
    "{}",
    "[]",
    "=>",
    "3.14",
    "2024-11",
    "https://example.org/a?b=c&d=%20",
    "don't",
    "I'll",
    "WE'RE",
    "naïve",
    "café",
    "Straße",
    "東京",
    "Москва",
    "🙂",
    "👩\u200d👩\u200d👧",
    "<|im_start|>",
    "<|im_end|>",
    "</s>",
    "[INST]",
    "\t\t",
    "\\n",
]


def sample_lines() -> list[str]:
    """Return lines of words, of single scripts and of everything mixed; the same on every machine."""
    draw = random.Random(20)
    ranges = list(RANGES.values())
    lines = []
    for index in range(LINES):
        if index % 2:
            lines.append(" ".join(draw.choices(WORDS, k=draw.randint(1, 20))))
        else:
            mixed = draw.random() < 0.3
            low, high = draw.choice(ranges)
            spans = ranges if mixed else [(low, high), (0x20, 0x20), (0x30, 0x39)]
            lines.append("".join(chr(draw.randint(*draw.choice(spans))) for _ in range(draw.randint(1, 60))))
    return lines


def digest(tokenizer: Tokenizer) -> str:
    """Return the SHA-256 over the ids of all lines."""
    total = hashlib.sha256()
    for line in sample_lines():
        ids = tokenizer.encode(line, add_special_tokens=False).ids
        total.update(b"".join(token_id.to_bytes(4, "little") for token_id in ids) + b"\xff" * 4)
    return total.hexdigest()


def test_ids_equal_those_of_another_reader(embedded_model: Path) -> None:
    assert digest(Tokenizer.from_file(str(embedded_model / "tokenizer.json"))) == REFERENCE_SHA256
