"""One shared library from C++ sources, compiled once and kept in the store under a hash of what it is made of."""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import SettingsError
from common.model_store import store_folder

# No contraction of a * b + c by the compiler's own choice: the same sum must come out of every copy of a loop.
COMMON_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-pthread", "-ffp-contract=off", "-fvisibility=hidden")
COMPILERS = ("c++", "g++", "clang++")
COMPILE_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Unit:
    """A source file and the flags that it alone is compiled with."""

    source: Path
    flags: tuple[str, ...] = ()


def library_path(name: str, units: Sequence[Unit]) -> Path:
    """Return where the library of these units is or will be.

    The name holds a hash of all files beside the sources, the flags and the kind of machine, so that what was built
    from anything else is never loaded. The compiler is not part of it: a host without one can use what another built.
    """
    digest = hashlib.sha256(f"{platform.system()} {platform.machine()} {COMMON_FLAGS}".encode())
    for unit in units:
        digest.update(f"{unit.source.name} {unit.flags}\0".encode())
    for file in sorted({file for unit in units for file in unit.source.parent.iterdir() if file.is_file()}):
        digest.update(f"{file.name}\0".encode() + file.read_bytes())
    return store_folder() / "native" / f"{name}-{digest.hexdigest()[:16]}.so"


def build_library(name: str, units: Sequence[Unit]) -> Path:
    """Return the library's path, compiling it first where it is missing. Several processes may do so at once.

    The compiler is $CXX, or the first of c++, g++ and clang++. Raises SettingsError when there is none, or it fails.
    """
    path = library_path(name, units)
    if path.is_file():
        return path
    compiler = _compiler()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".build-") as scratch:
        objects = [Path(scratch) / f"{unit.source.stem}.o" for unit in units]
        _run_all(
            [
                [*compiler, *COMMON_FLAGS, *unit.flags, "-c", str(unit.source), "-o", str(target)]
                for unit, target in zip(units, objects, strict=True)
            ]
        )
        linked = Path(scratch) / path.name
        shared = "-dynamiclib" if sys.platform == "darwin" else "-shared"
        _run_all([[*compiler, shared, "-pthread", *map(str, objects), "-o", str(linked)]])
        linked.replace(path)
    return path


def _compiler() -> list[str]:
    if chosen := os.environ.get("CXX"):
        return chosen.split()
    for name in COMPILERS:
        if found := shutil.which(name):
            return [found]
    raise SettingsError(f"no C++ compiler found ({', '.join(COMPILERS)}); apt install g++, or set CXX")


def _run_all(commands: Sequence[Sequence[str]]) -> None:
    """Run the commands side by side, as many as there are cores."""
    waiting = list(commands)
    running: list[tuple[Sequence[str], subprocess.Popen[str]]] = []
    try:
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                command = waiting.pop(0)
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                running.append((command, process))
            command, process = running.pop(0)
            _, errors = process.communicate(timeout=COMPILE_TIMEOUT_S)
            if process.returncode:
                raise SettingsError(f"{command[0]} failed ({' '.join(command)}):\n{errors[-4000:]}")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SettingsError(f"the C++ compiler cannot be used: {error}") from error
    finally:
        for _, process in running:
            process.kill()
            process.communicate()
