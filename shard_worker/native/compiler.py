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

    The compiler is $CXX, or the first of c++, g++ and clang++. Raises SettingsError, with one line, when there is none,
    it fails, or the library cannot be written.
    """
    path = library_path(name, units)
    if path.is_file():
        return path
    compiler = _compiler()
    try:
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
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _compiler() -> list[str]:
    chosen = os.environ.get("CXX", "").split()  # perhaps with a launcher before it: "ccache g++"
    for command in [chosen] if chosen else [[name] for name in COMPILERS]:
        if shutil.which(command[0]):
            return command
    raise SettingsError(f"no C++ compiler ({' '.join(chosen) or ', '.join(COMPILERS)}): install g++, or set CXX")


def _run_all(commands: Sequence[Sequence[str]]) -> None:
    """Run the commands side by side, as many as there are cores. Raises SettingsError when one fails."""
    waiting = list(commands)
    running: list[subprocess.Popen[str]] = []
    try:
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                running.append(
                    subprocess.Popen(
                        waiting.pop(0),
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.PIPE,
                        text=True,
                    )
                )
            _finish(running[0])
            del running[0]
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SettingsError(f"the C++ compiler cannot be used: {error}") from error
    finally:
        for process in running:
            process.kill()
            process.communicate()


def _finish(process: subprocess.Popen[str]) -> None:
    """Wait for a compiler. Raises SettingsError with its first line that tells of an error."""
    errors = process.communicate(timeout=COMPILE_TIMEOUT_S)[1].splitlines() or ["it does not say why"]
    if process.returncode:
        raise SettingsError(f"the C++ compiler failed: {next((line for line in errors if 'error' in line), errors[0])}")
