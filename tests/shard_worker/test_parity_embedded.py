"""SmolLM2 in float32 over 1, 2 and 3 ranks: greedy ids are those of transformers, logits to 1e-3.

All prompts run batched, with chunked prefill, through real rank processes; transformers then reads each prompt with our
answer in one forward (`assert_matches` says why that is enough). The reference runs once for all numbers of ranks.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from tests.support.greedy import Generation, assert_matches
from tests.support.ranks import rank_group
from tests.support.reference import load_reference, reference_logits
from tests.support.step_client import StepGroup

NUM_TOKENS = 64
TOLERANCE = 1e-3
CORES = 2

CHAT = "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
HELPFUL = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
STORY = (
    "The lighthouse keeper wrote a letter each evening, although no boat had come since the autumn storms. "
    "He described the gulls, the price of oil, and the colour of the water under the eastern cliff. "
)
PROMPTS = {
    "one token": "The",
    "capital": CHAT.format(system=HELPFUL, user="What is the capital of France?"),
    "poem": CHAT.format(system="You are a poet.", user="Write four lines about the sea in winter."),
    "arithmetic": CHAT.format(system=HELPFUL, user="What is 17 * 23? Explain each step."),
    "turns": CHAT.format(system=HELPFUL, user="Hi!") + "Hello!<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n",
    "no system": "<|im_start|>user\nList three colours.<|im_end|>\n<|im_start|>assistant\n",
    "empty turn": CHAT.format(system="", user=""),
    "plain": "Once upon a time, in a small village by the river,",
    "python": "def fibonacci(n: int) -> int:\n    if n < 2:\n        return n\n    return",
    "c": '#include <stdio.h>\n\nint main(void) {\n\tprintf("%d\\n", 1 << 4);\n\treturn',
    "json": '{"name": "tandem", "ranks": [0, 1, 2], "nested": {"a": null, "b": [true, false]}, "next":',
    "html": "<!DOCTYPE html>\n<html>\n  <head><title>Test</title></head>\n  <body class='x'>",
    "chinese": "人工智能正在改变世界。今天我们来谈谈",
    "japanese": "吾輩は猫である。名前はまだ無い。どこで生れたか",
    "korean": "안녕하세요, 저는",
    "arabic": "السلام عليكم ورحمة الله",
    "emoji": "🎉🎉 Happy birthday 🎂👩‍👩‍👧‍👦! 🇫🇷 ✨",
    "numbers": "3.14159265358979323846264338327950288419716939937510 2 4 8 16 32 64",
    "whitespace": "a  b   c\t\td\n\n\n    e\r\n        f",
    "only spaces": "       ",
    "repetition": "again and again and again, " * 15,
    "latin": "Gallia est omnia divisa in partes tres, quarum unam incolunt Belgae,",
    "shouting": "WARNING!!! DO NOT — under ANY circumstances — press the “red” button…",
    "letter": STORY * 6 + "One night,",
}
LONG_PROMPT_TOKENS = 1500


@pytest.fixture(scope="module")
def prompts(embedded_model: Path) -> dict[str, list[int]]:
    """Token ids of all prompts; special tokens in the text are special."""
    tokenizer = Tokenizer.from_file(str(embedded_model / "tokenizer.json"))
    ids = {name: tokenizer.encode(text).ids for name, text in PROMPTS.items()}
    ids["long"] = tokenizer.encode(STORY * 60).ids[:LONG_PROMPT_TOKENS]
    assert len(ids["one token"]) == 1 and len(ids["long"]) == LONG_PROMPT_TOKENS
    return ids


def answers_of(model: Path, tp: int, prompts: dict[str, list[int]]) -> dict[str, Generation]:
    short = {name: ids for name, ids in prompts.items() if name != "long"}
    threads = max(1, CORES // tp)
    with (
        rank_group(model, tp, threads=threads, kv_cache_tokens=8192, max_step_tokens=512) as ranks,
        StepGroup([rank.address for rank in ranks]) as group,
    ):
        driver = group.driver()
        answers = driver.generate(list(short.values()), NUM_TOKENS, chunk_tokens=96)
        # Apart, since a decode step costs what its longest context costs for every row.
        answers += driver.generate([prompts["long"]], NUM_TOKENS, chunk_tokens=512)
    return dict(zip([*short, "long"], answers, strict=True))


@pytest.fixture(scope="module")
def answers(embedded_model: Path, prompts: dict[str, list[int]]) -> dict[int, dict[str, Generation]]:
    """What 1, 2 and 3 ranks answer to every prompt."""
    return {tp: answers_of(embedded_model, tp, prompts) for tp in (1, 2, 3)}


@pytest.fixture(scope="module")
def reference(embedded_model: Path) -> Iterator[LlamaForCausalLM]:
    """transformers' model, on all cores while it is needed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(CORES)
    yield load_reference(embedded_model)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", [*PROMPTS, "long"])
def test_ids_and_logits_are_those_of_transformers(
    answers: dict[int, dict[str, Generation]], reference: LlamaForCausalLM, name: str
) -> None:
    first = answers[1][name]
    assert len(first.ids) == NUM_TOKENS
    expected = reference_logits(reference, first.known).numpy()
    for tp, by_name in answers.items():
        assert by_name[name].ids == first.ids, f"{tp} ranks"
        assert_matches(by_name[name], expected, TOLERANCE)


def test_the_model_makes_sense(embedded_model: Path, answers: dict[int, dict[str, Generation]]) -> None:
    """Reference and ranks read one checkpoint: a fault in it would be common to both, and show here."""
    tokenizer = Tokenizer.from_file(str(embedded_model / "tokenizer.json"))
    assert "Paris" in tokenizer.decode(answers[1]["capital"].ids)
