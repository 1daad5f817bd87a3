"""What of this machine can be checked without torch?"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from google.protobuf.internal import api_implementation

from common.commands.findings import Finding, read_finding
from common.commands.listen_address import free_address
from common.errors import CheckpointError, SettingsError
from common.machine_memory import available_memory_bytes
from common.manifest import read_manifest
from common.model_store import resolve, store_folder

PACKAGES = ("grpcio", "protobuf", "numpy", "tokenizers", "pydantic")
CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "sve", "bf16")
MIN_MEMORY_BYTES = 2 << 30
MIN_DISK_BYTES = 2 << 30
SELFTEST_TIMEOUT_S = 180.0


def check_software() -> Iterator[Finding]:
    """Versions of what a gateway needs."""
    yield Finding("ok", "python", f"{platform.python_version()} on {platform.platform()}")
    for name in PACKAGES:
        try:
            yield Finding("ok", name, version(name))
        except PackageNotFoundError:
            yield Finding("fail", name, "not installed", f"pip install {name}")
    backend = api_implementation.Type()
    if backend != "upb":
        yield Finding("warn", "protobuf", f"backend {backend} is slow", "unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION")


def check_hardware() -> Iterator[Finding]:
    """Cores, the vector instructions that matter, memory."""
    words = set(_read("/proc/cpuinfo").split())
    features = [name for name in CPU_FEATURES if name in words] or ["no known vector extension"]
    yield Finding("ok", "cpu", f"{_cores()} cores usable, {platform.machine()}: {', '.join(features)}")
    memory_bytes = available_memory_bytes()
    if memory_bytes is None:
        yield Finding("warn", "memory", "unknown on this system")
    elif memory_bytes < MIN_MEMORY_BYTES:
        yield Finding("warn", "memory", f"{_gib(memory_bytes)} available", "take a small model, or free some")
    else:
        yield Finding("ok", "memory", f"{_gib(memory_bytes)} available")


def check_listen(listen: str) -> Finding:
    """Whether a gateway could listen there now."""
    try:
        return Finding("ok", "listen", f"{free_address(listen)} is free")
    except SettingsError as error:
        return Finding("fail", "listen", str(error), "choose another --listen, or stop what runs there")


def check_model(name: str) -> Iterator[Finding]:
    """Whether the store can be written and the model is there, each file as long as its manifest says."""
    store = store_folder()
    existing = next(folder for folder in (store, *store.parents) if folder.exists())
    free_bytes = shutil.disk_usage(existing).free
    if not os.access(existing, os.W_OK):
        yield Finding("warn", "store", f"{store} cannot be written", "set TANDEM_HOME to a folder of yours")
    elif free_bytes < MIN_DISK_BYTES:
        yield Finding("warn", "store", f"{_gib(free_bytes)} free in {store}", "free some, or set TANDEM_HOME")
    else:
        yield Finding("ok", "store", f"{store}, {_gib(free_bytes)} free")
    try:
        folder = resolve(name)
        manifest, checkpoint_hash = read_manifest(folder)
    except CheckpointError as error:
        yield Finding("warn", "model", str(error))
        return
    for file, digest in manifest.files.items():
        path = folder / file
        if not path.is_file() or path.stat().st_size != digest.bytes:
            yield Finding("fail", "model", f"{path} is damaged or missing", "`tandem download` it again")
            return
    yield Finding("ok", "model", f"{manifest.name} in {folder}, manifest {checkpoint_hash[:12]}")


def check_draft(draft: str, model: str) -> Finding:
    """Whether the one model's tokens mean the same to the other, so that it can draft for it."""
    try:
        manifests = [read_manifest(resolve(name))[0] for name in (draft, model)]
    except CheckpointError as error:
        return Finding("warn", "draft", str(error))
    ours, theirs = ((m.tokenizer.sha256, m.architecture.vocabulary_size) for m in manifests)
    if ours != theirs:
        return Finding(
            "fail", "draft", f"{draft} has another vocabulary than {model}", "take a draft with the model's tokenizer"
        )
    return Finding("ok", "draft", f"{manifests[0].name} has the vocabulary of {manifests[1].name}, {ours[1]} ids")


def check_torch() -> Iterator[Finding]:
    """What a rank needs. torch lives in a child process: this one stays as light as the gateway."""
    command_line = [sys.executable, "-m", "shard_worker.selftest"]
    try:
        result = subprocess.run(command_line, capture_output=True, text=True, timeout=SELFTEST_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        yield Finding("fail", "ranks", f"self-test did not end within {SELFTEST_TIMEOUT_S:g} s")
        return
    yield from filter(None, map(read_finding, result.stdout.splitlines()))
    if result.returncode:
        last_line = (result.stderr.strip().splitlines() or ["no output"])[-1]
        yield Finding("fail", "ranks", f"self-test ended with exit code {result.returncode}: {last_line}")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 30):.1f} GiB"
