"""promtool for the tests of metrics and rules: `python -m tests.support.fetch_promtool FOLDER` puts it there.

It is Debian's, from the package that apt checks against the distribution's keys; nothing is installed.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = "prometheus"
MEMBER = "usr/bin/promtool"


def fetch(path: Path) -> None:
    """Put promtool at `path`. Raises CalledProcessError where apt does not have the package, FileNotFoundError without
    apt."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # apt downloads as a user of its own
        line = ["apt-get", "download", "-q", PACKAGE]
        if subprocess.run(line, cwd=folder, check=False, capture_output=True).returncode != 0:
            # The lists of packages may be missing, or older than the packages.
            subprocess.run(["apt-get", "update", "-q"], check=False, stdout=sys.stderr)
            subprocess.run(line, cwd=folder, check=True, stdout=sys.stderr)
        (package,) = Path(folder).glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", str(package), folder], check=True)
        scratch = path.with_suffix(".new")
        shutil.copyfile(Path(folder) / MEMBER, scratch)
        scratch.chmod(0o755)
        scratch.replace(path)


def main(folder: Path) -> None:
    """Put promtool into `folder`, unless it is there or on the PATH."""
    path = folder / "promtool"
    if not path.exists() and shutil.which("promtool") is None:
        fetch(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
