"""Whether a rank computes in native code, and if not, why."""

import logging
from typing import Literal

import torch

from common.errors import SettingsError
from shard_worker.model.kv_cache import KVCache
from shard_worker.model.llama import Llama
from shard_worker.native.compact import compact_matrices
from shard_worker.native.decoder import NativeAllReduce, NativeDecoder
from shard_worker.native.huge_pages import move_to_huge_pages
from shard_worker.native.library import Runner
from shard_worker.native.packing import pack_matrices
from shard_worker.parallel import RankGroup
from shard_worker.partition import Partition

# In what a model may differ from plain Llama (`Architecture.departures`).
COMPUTED = frozenset({"query, key and value biases", "query and key norms", "sliding windows", "trimmed head"})
log = logging.getLogger(__name__)


def native_decoder(
    choice: Literal["auto", "on", "off"],
    attention: str,
    model: Llama,
    cache: KVCache,
    part: Partition,
    compact_weights: bool = True,
) -> NativeDecoder | None:
    """Return the model's native decoder, or None where PyTorch computes everything; that is logged with its reason.

    Raises SettingsError when `choice` is "on" and it cannot be had.
    """
    if choice == "off":
        return None
    try:
        if model.rope.cos.device.type != "cpu":
            raise SettingsError("they are for the CPU")
        if attention == "reference":
            raise SettingsError("reference attention is PyTorch's")
        if unknown := [departure for departure in model.departures if departure not in COMPUTED]:
            raise SettingsError(f"they do not compute what this model has: {', '.join(unknown)}")
        runner = Runner(torch.get_num_threads())
        if runner.packs and cache.layer(0).dtype == torch.bfloat16:  # a float32 model's activations are never rounded
            pack_matrices(model)
            if compact_weights:
                compact_matrices(model, runner)
        move_to_huge_pages(model)
        decoder = NativeDecoder(model, cache, part, runner, _native_all_reduce(model.group))
    except SettingsError as error:
        if choice == "on":
            raise SettingsError(f"native kernels cannot be used: {error}") from error
        log.info("PyTorch computes every step, native kernels are not in use: %s", error)
        return None
    log.info("native kernels: %s, %d threads", runner.kernels, torch.get_num_threads())
    if model.screen is not None:
        log.info("a screen of rank %d finds where to read the head", model.screen.down.out_features)
    return decoder


def _native_all_reduce(group: RankGroup) -> NativeAllReduce | None:
    """Return the group's all-reduce without a way through Python, where it has one."""
    if group.shared_memory is None:
        return None
    function, context = group.shared_memory.entry_point
    return NativeAllReduce(function, context, group.shared_memory.check)
