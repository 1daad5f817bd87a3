"""Compile the library ahead of its first use: `python -m shard_worker.collectives`."""

import sys

from common.errors import SettingsError
from shard_worker.collectives.shared_memory import load_library


def main() -> None:
    """Say which library is there now. Without one all works, but slower: that is no failure."""
    try:
        print(f"shared-memory collectives: {load_library()._name}")
    except SettingsError as error:
        print(f"ranks will add up by torch.distributed: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
