"""How many KV blocks fit on the device."""

import os
from pathlib import Path

import torch

from common.errors import SettingsError
from common.manifest import Architecture
from shard_worker.model.kv_cache import bytes_per_token
from shard_worker.partition import Partition
from shard_worker.settings import ShardSettings

# On a GPU nothing else lives beside the ranks; a CPU host's memory is shared with everything.
GPU_SHARE = 0.85
CPU_SHARE = 0.25
# Past this, a default serves nobody on a CPU and only slows the start.
CPU_DEFAULT_TOKENS = 65_536
MEMINFO = Path("/proc/meminfo")


def size_kv_cache(
    settings: ShardSettings, arch: Architecture, part: Partition, dtype: torch.dtype, device: torch.device
) -> int:
    """Return the number of KV blocks of this rank: as set, or a share of what is free once weights are loaded.

    Raises SettingsError when not even one full context fits where the size was left to us.
    """
    block_size = settings.block_size_tokens
    if settings.kv_cache_tokens is not None:
        return -(-settings.kv_cache_tokens // block_size)
    per_token = bytes_per_token(arch.layers, part.kv_heads.size, arch.head_dim, dtype)
    tokens = int(_free_bytes(settings, device) / per_token)
    if device.type == "cpu":
        tokens = min(tokens, max(CPU_DEFAULT_TOKENS, arch.context_length))
    if tokens < arch.context_length:
        raise SettingsError(
            f"the KV cache of one context of {arch.context_length} tokens takes "
            f"{per_token * arch.context_length >> 20} MiB, and there is room for {tokens} tokens; "
            "set kv_cache_tokens to serve shorter prompts, or use more ranks"
        )
    return tokens // block_size


def _free_bytes(settings: ShardSettings, device: torch.device) -> float:
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        return free_bytes * GPU_SHARE
    return _available_bytes() * CPU_SHARE / settings.tp


def _available_bytes() -> int:
    """Return what the kernel would give us, its own caches included where it tells."""
    try:
        for line in MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
