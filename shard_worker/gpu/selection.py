"""Whether a rank decodes with fused kernels on its GPU, and if not, why."""

import logging
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from common.errors import SettingsError
from shard_worker.gpu.decoder import GraphDecoder
from shard_worker.gpu.prefill import use_kernels
from shard_worker.gpu.replay import Recorder
from shard_worker.gpu.sampler import GraphSampler
from shard_worker.model.kv_cache import KVCache
from shard_worker.model.llama import Llama
from shard_worker.partition import Partition

if TYPE_CHECKING:
    from shard_worker.gpu.triton_operations import TritonOperations

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GpuDecoder:
    """What a rank on a GPU decodes with."""

    decoder: GraphDecoder
    sampler: GraphSampler


def gpu_decoder(
    choice: Literal["auto", "on", "unrecorded", "off"],
    attention: str,
    model: Llama,
    cache: KVCache,
    part: Partition,
) -> GpuDecoder | None:
    """Return the decoder of a model on a GPU, tuned and recorded, or None where PyTorch computes everything.

    The reason for None is logged. Raises SettingsError when `choice` asks for what cannot be had.
    """
    if choice == "off" or (choice == "auto" and model.rope.cos.device.type != "cuda"):
        return None
    try:
        operations = _operations(attention, model, cache, part)
        recorder = Recorder(model.rope.cos.device, enabled=choice != "unrecorded")
        made = _tuned(operations, model, cache, part, recorder)
    except (SettingsError, ImportError) as error:
        if choice != "auto":
            raise SettingsError(f"GPU kernels cannot be used: {error}") from error
        log.warning("PyTorch computes every step, GPU kernels are not in use: %s", error)
        return None
    log.info("GPU kernels: Triton, %s", "recorded" if recorder.enabled else "launched one by one")
    return made


def _operations(attention: str, model: Llama, cache: KVCache, part: Partition) -> "TritonOperations":
    if model.departures:
        raise SettingsError(f"they compute plain Llama, and this model has {', '.join(model.departures)}")
    if model.rope.cos.device.type != "cuda":
        raise SettingsError("the device is no GPU")
    if attention == "reference":
        raise SettingsError("reference attention is PyTorch's")
    if find_spec("triton") is None:
        raise SettingsError("there is no Triton beside this PyTorch")
    # Imported here: it brings triton, which is not there on machines without a GPU.
    from shard_worker.gpu.triton_operations import TritonOperations

    return TritonOperations(model, cache, part)


def _tuned(
    operations: "TritonOperations", model: Llama, cache: KVCache, part: Partition, recorder: Recorder
) -> GpuDecoder:
    from shard_worker.gpu.tuning import tune

    decoder = GraphDecoder(model, cache, operations, recorder)
    tune(operations, decoder)
    decoder.record_all()
    use_kernels(model, operations)
    sampler = GraphSampler(part.vocabulary.start, part.vocabulary.size, model.rope.cos.device, recorder)
    sampler.record_common()
    return GpuDecoder(decoder, sampler)
