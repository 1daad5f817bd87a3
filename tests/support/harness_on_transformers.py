"""Run as a script: `harness_on_transformers.py CHECKPOINT FOLDER plain:TASKS chat:TASKS OUTPUT`.

lm-evaluation-harness with its own `hf` backend, on the weights of a checkpoint of ours in float32: the reference for
`tandem eval`. TASKS are names, with commas, of the task files in FOLDER. A process of its own, since the harness brings
threads, open files and warnings that tests would have to excuse.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable
from transformers import PreTrainedTokenizerFast

from tests.support.reference import load_reference

BEGIN, END = "<|im_start|>", "<|im_end|>"  # what SmolLM2's own tokenizer_config.json says


def main(checkpoint: Path, folder: str, wanted: list[str], output: Path) -> None:
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_file=str(checkpoint / "tokenizer.json"), bos_token=BEGIN, eos_token=END, pad_token=END
    )
    tokenizer.chat_template = (checkpoint / "chat_template.jinja").read_text()
    model = HFLM(pretrained=load_reference(checkpoint), tokenizer=tokenizer, batch_size=8, max_length=2048)
    manager = TaskManager(include_path=folder, include_defaults=False)
    kept = {}
    for each in wanted:
        mode, _, tasks = each.partition(":")
        found: dict[str, Any] | None = simple_evaluate(
            model=model, tasks=tasks.split(","), task_manager=manager, apply_chat_template=mode == "chat"
        )
        assert found is not None
        kept[mode] = {name: found[name] for name in ("results", "samples")}
    output.write_text(json.dumps(kept, default=handle_non_serializable))


if __name__ == "__main__":
    torch.set_num_threads(2)
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:-1], Path(sys.argv[-1]))
