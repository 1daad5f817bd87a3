"""No orphans: a child of the supervisor dies with it, however it dies."""

import os
import signal
import sys

DIE_WITH_PARENT = "TANDEM_DIE_WITH_PARENT"
PR_SET_PDEATHSIG = 1


def die_with_parent_if_told() -> None:
    """Where the environment names a parent (its pid), have the kernel kill this process when that one ends.

    Linux only (prctl PR_SET_PDEATHSIG); elsewhere it does nothing. The variable is removed: it is meant for
    this process alone, not for its children.
    """
    parent_pid = os.environ.pop(DIE_WITH_PARENT, None)
    if parent_pid is None or sys.platform != "linux":
        return
    import ctypes  # needed by children of a supervisor only

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent_pid):  # it was gone before we could ask
        os._exit(1)
