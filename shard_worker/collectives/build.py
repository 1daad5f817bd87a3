"""A shared library from C++ sources, compiled once and then found in the cache."""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common.errors import SettingsError
from common.model_store import store_folder

COMPILERS = ("c++", "g++", "clang++")
COMPILE_TIMEOUT_S = 300.0


def build(sources: Sequence[Path], flags: Sequence[str]) -> Path:
    """Return the shared library of `sources`, headers among them, compiling it where the cache has none.

    The cache is keyed by flags, kind of machine and the content of every source, but not by the compiler: a host
    without one can use what another built. Processes that compile at the same time do not disturb each other. Raises
    SettingsError when there is no compiler, or it fails.
    """
    folder = store_folder() / "native"
    library = folder / f"{sources[0].stem}-{_key(sources, flags)}.so"
    if library.is_file():
        return library
    compiler = _compiler()
    units = [str(path) for path in sources if path.suffix == ".cpp"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=folder) as work:
            output = Path(work) / library.name
            _compile([compiler, *flags, "-shared", "-fPIC", *units, "-o", str(output)])
            output.rename(library)
    except OSError as error:
        raise SettingsError(f"cannot write {library}: {error.strerror}") from error
    return library


def _compiler() -> str:
    chosen = os.environ.get("CXX")
    found = next(filter(None, map(shutil.which, [chosen] if chosen else COMPILERS)), None)
    if found is None:
        raise SettingsError(f"no C++ compiler ({chosen or ', '.join(COMPILERS)}) is installed")
    return found


def _key(sources: Sequence[Path], flags: Sequence[str]) -> str:
    parts = [platform.system(), platform.machine(), *flags]
    for path in sources:
        parts += [path.name, path.read_text()]
    # Lengths keep apart what would read the same once joined.
    return hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()[:16]


def _compile(command: Sequence[str]) -> None:
    """Run the compiler; raises SettingsError with the first error line when it fails."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SettingsError(f"{command[0]} cannot be used: {error}") from error
    if done.returncode:
        lines = done.stderr.splitlines() or ["it does not say why"]
        raise SettingsError(f"{command[0]} failed: {next((x for x in lines if 'error' in x), lines[0])}")
