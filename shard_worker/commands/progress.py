"""The progress of long work, drawn on stderr."""

import sys
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import click


class ProgressBars:
    """One bar for each stage in turn; call it with the stage's name and how many bytes of how many are done.

    Where stderr is not a terminal, each stage is one line.
    """

    def __init__(self) -> None:
        self._stage: str | None = None
        self._done_bytes = 0
        self._bars = ExitStack()

    def __call__(self, stage: str, done_bytes: int, total_bytes: int) -> None:
        if stage != self._stage:
            self._bars.close()
            self._stage, self._done_bytes = stage, 0
            self._bar = self._bars.enter_context(click.progressbar(length=total_bytes, label=stage, file=sys.stderr))
        self._bar.update(done_bytes - self._done_bytes)
        self._done_bytes = done_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.close()
