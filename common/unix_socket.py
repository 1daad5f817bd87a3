"""Does another process listen on this unix socket?"""

import socket
from pathlib import Path

from common.errors import SettingsError


def check_unused(listen: str) -> None:
    """Raise SettingsError where another process listens on a unix socket: grpc would quietly take its place."""
    path = listen.removeprefix("unix:").removeprefix("//")
    if not listen.startswith("unix:") or not Path(path).exists():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:  # left behind by a process that is gone
            return
    raise SettingsError(f"cannot listen on {listen}: another process does")
