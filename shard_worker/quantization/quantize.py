"""A checkpoint in, a quantised checkpoint out."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from common.manifest import Manifest
from shard_worker.checkpoint.from_checkpoint import open_checkpoint
from shard_worker.checkpoint.output_folder import OutputFolder
from shard_worker.checkpoint.reader import Progress
from shard_worker.checkpoint.source import Tensors
from shard_worker.checkpoint.writer import write_checkpoint
from shard_worker.quantization.calibration import calibration_ids, calibration_text
from shard_worker.quantization.gptq_tensors import GptqTensors
from shard_worker.quantization.layerwise import solve_layers
from shard_worker.quantization.nearest import NearestTensors
from shard_worker.quantization.stated import quantization_of

CPU = torch.device("cpu")
Mode = Literal["int8", "int4", "int4-gptq"]


@dataclass(frozen=True)
class QuantizeOptions:
    """What `tandem quantize` can be told. The calibration and the device matter to GPTQ alone."""

    mode: Mode
    group_size: int = 32
    embedding: Literal["none", "int8"] = "int8"
    calibration: Path | None = None
    calibration_tokens: int = 16_384
    device: torch.device = CPU


def quantize(folder: Path, output: OutputFolder, name: str, options: QuantizeOptions, progress: Progress) -> Manifest:
    """Make the checkpoint `name` in `output` of the unquantised one in `folder`, and return its manifest.

    Rounding to nearest holds one block of one matrix in memory; for GPTQ see `layerwise`. Raises CheckpointError when
    the model cannot be quantised so; `output` is then left as it was.
    """
    model, reader = open_checkpoint(folder)
    with reader:
        gptq = options.mode == "int4-gptq"
        quantization = quantization_of(
            model.architecture, options.mode.removesuffix("-gptq"), options.group_size, options.embedding, gptq
        )
        tensors: Tensors = NearestTensors(model.tensors, quantization)
        if gptq:
            text = calibration_text(options.calibration)
            ids_Sn = calibration_ids(
                text, model.tokenizer, options.calibration_tokens, model.architecture.context_length
            )
            solve_layers(reader, ids_Sn, quantization, output.scratch, options.device, progress)
            tensors = GptqTensors(output.scratch, tensors)
        quantized = replace(model, tensors=tensors, quantization=quantization)
        return write_checkpoint(quantized, output, name, reader.manifest.dtype, progress, stage="quantizing")
