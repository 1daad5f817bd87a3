"""A file of torch.save as a safetensors file. It may run code when it is read: a throw-away child process does that."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from common.errors import CheckpointError
from common.parent_death import DIE_WITH_PARENT
from shard_worker.checkpoint.reader import Progress

STALL_S = 300.0
"""How long the child may be silent. It speaks after each block of a tensor, so a large file does not need more."""

MAX_LINE_BYTES = 1 << 16
MAX_REASON_CHARACTERS = 1000
ROOT = Path(__file__).parents[2]
# Where its code and libraries are, and nothing else: no tokens for the hub, for one.
PASSED_ON = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "TMPDIR", "VIRTUAL_ENV")

Unpickle = Callable[[Path], Path]
"""From a file of torch.save to a safetensors file of the same tensors."""


class Unpickler:
    """Reads files of torch.save into safetensors files in `folder`, each in a process of its own."""

    def __init__(self, folder: Path, progress: Progress, stall_s: float = STALL_S) -> None:
        self._folder = folder
        self._progress = progress
        self._stall_s = stall_s

    def __call__(self, path: Path) -> Path:
        """Return a new safetensors file of the tensors in `path`.

        Raises CheckpointError when the file is not a dictionary of tensors, or the child is ended by one of its limits.
        """
        if not os.path.isfile(path):  # noqa: PTH113 - unlike Path's, it takes any name
            raise CheckpointError(f"{path} is missing or not a file")
        output = self._folder / f"{path.name}.safetensors"
        command = [sys.executable, "-m", "shard_worker.checkpoint.torch_child", str(path.resolve()), str(output)]
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        with subprocess.Popen(
            command,
            cwd=ROOT,  # python -m imports from there first: not from a folder that came with the file
            env=environment | {"OMP_NUM_THREADS": "1", DIE_WITH_PARENT: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as child:
            assert child.stdout is not None
            try:
                ended = self._follow(path, child.stdout)
            finally:
                child.kill()
                code = child.wait()
        if not ended:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
            raise CheckpointError(f"cannot read {path}: the process that read it {how}")
        return output

    def _follow(self, path: Path, pipe: IO[bytes]) -> bool:
        """Show the child's progress and return whether it came to its end."""
        for line in _lines(pipe, self._stall_s):
            if line is None:
                raise CheckpointError(f"cannot read {path}: nothing happened within {self._stall_s:g} s")
            try:
                message = json.loads(line)
                if "error" not in message:
                    self._progress(f"reading {path.name}", int(message["done"]), int(message["total"]))
                    continue
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
                raise CheckpointError(f"cannot read {path}: the process that read it spoke nonsense") from error
            if message["error"] is not None:
                raise CheckpointError(f"cannot read {path}: {_printable(str(message['error']))}")
            return True
        return False


def _printable(reason: str) -> str:
    """Return what a terminal cannot take for commands: the reason quotes a file that nobody vouches for."""
    return "".join(letter if letter.isprintable() else "?" for letter in reason[:MAX_REASON_CHARACTERS])


def _lines(pipe: IO[bytes], stall_s: float) -> Iterator[bytes | None]:
    """Yield the pipe's lines, and None once nothing came for `stall_s`."""
    rest = b""
    while select.select([pipe], [], [], stall_s)[0]:
        data = os.read(pipe.fileno(), MAX_LINE_BYTES)
        if not data:
            return
        *lines, rest = (rest[:MAX_LINE_BYTES] + data).split(b"\n")
        yield from lines
    yield None
