"""The native kernels' sources, and how each is compiled. Run as a script, it builds all C++ libraries of a rank."""

import platform
import sys
from pathlib import Path

from common.errors import SettingsError
from shard_worker.collectives import shared_memory
from shard_worker.native.compiler import Unit, build_library, library_path

NAME = "tandem-kernels"
SOURCES = Path(__file__).parent / "csrc"
_PARTS = ("api", "compact", "decoder", "dispatch", "draw_op", "linear_op", "passes", "screen", "team")
SHARED = (*_PARTS, "kernels_portable")
_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma")
# Only the kernels' own files may hold instructions that a processor may lack: which to use is found at run time.
X86_FLAGS = {
    "kernels_avx2": ("-mavx2", "-mfma", "-mf16c"),
    "kernels_avx512_bf16": (*_AVX512, "-mavx512vnni", "-mavx512bf16"),
    "kernels_avx512_vnni": (*_AVX512, "-mavx512vnni"),
    "kernels_avx512": _AVX512,
}


def units() -> list[Unit]:
    """Return what this machine's library is made of."""
    made = [Unit(SOURCES / f"{stem}.cpp") for stem in SHARED]
    if platform.machine() in ("x86_64", "AMD64"):
        made += [Unit(SOURCES / f"{stem}.cpp", flags) for stem, flags in X86_FLAGS.items()]
    # The largest first, so that they do not wait for a core at the end.
    return sorted(made, key=lambda unit: not unit.source.stem.startswith("kernels"))


def path() -> Path:
    """Return where the library is, or would be."""
    return library_path(NAME, units())


def build() -> Path:
    """Return the library, built where it is missing. Raises SettingsError when it cannot be."""
    return build_library(NAME, units())


def main() -> None:
    """Build both libraries ahead of their first use and say where they are.

    Without a compiler all works, but slower: that is no failure.
    """
    for what, build_one, instead in (
        ("shared-memory collectives", shared_memory.build, "ranks will add up by torch.distributed"),
        ("native kernels", build, "PyTorch's own will be used"),
    ):
        try:
            print(f"{what}: {build_one()}")
        except SettingsError as error:
            print(f"{what} were not built, {instead}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
