"""Run as a script: `gpt_fast_driver.py FOLDER [generate.py's flags]`. gpt-fast's main() with random weights.

It has no way to run without a checkpoint: its loader and its tokenizer are replaced, all else is its own.
"""

import argparse
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

PROMPT_IDS = (1, 15043, 29892, 590, 1024, 338)  # "Hello, my name is" by Llama 2's tokenizer
_STD_INT8, _STD_INT4 = 73.3, 4.61


class Tokenizer:
    """As many ids as its default prompt has; text is never looked at."""

    def encode(self, text: str) -> list[int]:
        """Return the prompt's ids, less the one for the beginning."""
        return list(PROMPT_IDS[1:])

    def decode(self, ids: list[int]) -> str:
        """Return nothing: there is no text."""
        return ""

    def bos_id(self) -> int:
        """Return the id of the beginning."""
        return PROMPT_IDS[0]

    def eos_id(self) -> int:
        """Return an id that is never drawn."""
        return -1


def load_model(checkpoint: Path, device: str, precision: torch.dtype, use_tp: bool) -> Any:
    """Return its model for this file's name with random weights; the quantised forms are made by its own code."""
    assert not use_tp, "one GPU"
    with torch.device("meta"):
        model = import_module("model").Transformer.from_name(checkpoint.parent.name)
    quantize = import_module("quantize")
    if "int8" in checkpoint.name:
        model = quantize.WeightOnlyInt8QuantHandler(model).convert_for_runtime()
    elif "int4" in checkpoint.name:
        group_size = int(checkpoint.stem.rpartition(".g")[2])
        # On meta its handler would ask for packed shapes that only a device can tell; they depend on sizes alone.
        model = quantize.WeightOnlyInt4QuantHandler(model, group_size).convert_for_runtime()
    model = model.to_empty(device=device)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        _fill(name, tensor.data)
    return model.to(dtype=precision).eval()


def _fill(name: str, tensor: torch.Tensor) -> None:
    """Draw values that keep activations finite."""
    if tensor.dtype == torch.int8:
        tensor.random_(-127, 128)
    elif not tensor.is_floating_point():
        tensor.random_(-(1 << 31), (1 << 31) - 1)
    elif name.endswith("scales"):
        tensor.fill_(64.0**-1 / _STD_INT8)
    elif name.endswith("scales_and_zeros"):
        tensor.fill_(0.0)
        tensor[..., 0] = 64.0**-1 / _STD_INT4
    elif tensor.dim() == 1:
        tensor.fill_(1.0)
    else:
        bound = (3.0 / tensor.shape[-1]) ** 0.5
        tensor.uniform_(-bound, bound)


def main() -> None:
    """Run its main() with the flags that are given."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoint_path", type=Path, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--num_samples", type=int, default=3)
    parser.add_argument("--max_new_tokens", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    flags = vars(parser.parse_args())
    sys.path.insert(0, str(flags.pop("folder")))
    stub = ModuleType("tokenizer")  # its own brings libraries that nothing here needs
    vars(stub)["get_tokenizer"] = lambda model, name: Tokenizer()
    sys.modules["tokenizer"] = stub
    generate = import_module("generate")
    vars(generate)["_load_model"] = load_model
    generate.main(**flags)


if __name__ == "__main__":
    main()
