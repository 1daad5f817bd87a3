"""The map of the house names every file there is, and none that is gone."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("common", "gateway", "shard_worker", "draft_worker", "proto")


def mapped_files() -> set[str]:
    """Return the paths in CONTRIBUTING.md's tables: a folder in bold, then a row a file."""
    folder, files = "", set()
    for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines():
        if heading := re.fullmatch(r"\*\*(\S+)/\*\*", line):
            folder = heading[1]
        elif row := re.match(r"\| `(\S+)` \|", line):
            files.add(f"{folder}/{row[1]}")
    return {path for path in files if path.startswith(tuple(f"{package}/" for package in PACKAGES))}


def hand_written_files() -> set[str]:
    """Return the paths of all sources that a person wrote."""
    sources = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.suffix in (".py", ".proto"))
    return {str(path.relative_to(ROOT)) for path in sources if path.name != "__init__.py" and "_pb2" not in path.name}


def test_the_map_is_complete() -> None:
    assert mapped_files() == hand_written_files()
