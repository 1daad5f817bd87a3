"""gpt-fast's own generate.py on the same shape, in a process of its own, from a checkout that is given."""

import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from shard_worker.gpu_bench.children import StageFailed, output_of
from shard_worker.gpu_bench.engines import INT4_GROUP_SIZE
from shard_worker.gpu_bench.stages import Mode

# What its model.py calls the shapes; it finds a name within a longer one.
NAMES = {"llama-2-7b": "Llama-2-7B", "llama-3.1-8b": "llama-3.1-8b", "stories15m": "stories15M"}
# Its loader reads the mode from the file's name.
_FILES = {"bf16": "model.pth", "int8": "model_int8.pth", "int4": f"model_int4.g{INT4_GROUP_SIZE}.pth"}
_DRIVER = Path(__file__).with_name("gpt_fast_driver.py")
_SAMPLES = 3


@dataclass(frozen=True)
class GptFastSpeed:
    """Its "Average tokens/sec" of one stream of the batch, times the batch: prefill is counted in."""

    shape: str
    mode: str
    batch: int
    whole_tokens_per_s: float


def gpt_fast_speed(
    folder: Path, shape: str, mode: Mode, batch: int, num_tokens: int, device: str, limit_s: float
) -> GptFastSpeed:
    """Run it with --compile on a GPU. Raises StageFailed when it fails, or prints no figure."""
    if shape not in NAMES:
        raise StageFailed(f"gpt-fast has no shape {shape}")
    with tempfile.TemporaryDirectory(prefix="tandem-gpt-fast-") as scratch:
        checkpoint = Path(scratch) / NAMES[shape] / _FILES[mode]
        checkpoint.parent.mkdir()
        checkpoint.touch()  # its main() wants to see files; the driver fills the model
        (checkpoint.parent / "tokenizer.model").touch()
        command = [
            *(sys.executable, str(_DRIVER), str(folder.resolve())),
            *("--checkpoint_path", str(checkpoint), "--device", device, "--num_samples", str(_SAMPLES)),
            *("--max_new_tokens", str(num_tokens), "--batch_size", str(batch)),
            *(["--compile"] if device.startswith("cuda") else []),
        ]
        output = output_of(command, limit_s, cwd=folder)
    found = re.search(r"Average tokens/sec:\s*([0-9.]+)", output)
    if found is None:
        raise StageFailed("gpt-fast printed no tokens/sec")
    return GptFastSpeed(shape, mode, batch, batch * float(found[1]))
