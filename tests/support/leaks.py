"""What this process holds that a test must give back: threads, child processes, file descriptors, environment."""

import gc
import os
import threading
import time
from collections import Counter
from pathlib import Path

import psutil

# Helpers that Python and torch.compile start on first use and keep for the life of the process.
KEPT_PROCESSES = ("multiprocessing.resource_tracker", "torch/_inductor/compile_worker")
# Descriptors that libraries open on first use and keep: epoll and event objects, devices, memory files.
KEPT_DESCRIPTORS = ("anon_inode:", "/dev/", "/proc/", "/sys/", "/memfd:")
# Variables that pytest sets for each test, and torch.compile on first use.
KEPT_VARIABLES = ("PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR", "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR")
# pytest-timeout's timer, another for each test, where it was asked for threads.
KEPT_THREADS = "pytest_timeout "
POLL_S = 0.05


def held() -> Counter[str]:
    """Return a line for each non-daemon thread, descendant process, open file, socket and pipe, and variable set."""
    return Counter([*_threads(), *_processes(), *_descriptors(), *_environment()])


def leaked(before: Counter[str], patience_s: float) -> list[str]:
    """Return what is held now and was not `before`, sorted. What is about to go has `patience_s` to do so."""
    deadline_s = time.monotonic() + patience_s
    while more := held() - before:
        gc.collect()  # an object in a reference cycle gives its descriptors back here
        if not (more := held() - before) or time.monotonic() > deadline_s:
            break
        time.sleep(POLL_S)
    return sorted(more.elements())


def _threads() -> list[str]:
    running = (thread for thread in threading.enumerate() if not thread.daemon)
    return [f"thread {t.name} ({t.ident})" for t in running if not t.name.startswith(KEPT_THREADS)]


def _processes() -> list[str]:
    lines = []
    for child in psutil.Process().children(recursive=True):
        try:
            command = " ".join(child.cmdline()) or "(ended, not waited for)"
        except psutil.ZombieProcess:
            command = "(ended, not waited for)"
        except psutil.NoSuchProcess:
            continue
        if not any(kept in command for kept in KEPT_PROCESSES):
            lines.append(f"process {child.pid}: {command}")
    return lines


def _environment() -> list[str]:
    return [f"environment {name}={value}" for name, value in os.environ.items() if name not in KEPT_VARIABLES]


def _descriptors() -> list[str]:
    lines = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:  # the listing's own descriptor
            continue
        if not target.startswith(KEPT_DESCRIPTORS):
            lines.append(f"descriptor {target}")
    return lines
