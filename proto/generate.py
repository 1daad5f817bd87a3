"""Regenerate the Python stubs beside the protos: `python proto/generate.py [--check]`.

With --check nothing is written; the exit status is 1 when the committed stubs differ from fresh ones.
The generators are pinned (pyproject, extra `dev`): stubs made by grpcio-tools 1.80.0 load on protobuf 6 and 7.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent


def generate(target: Path) -> None:
    """Write stubs for every proto below `ROOT` into `target`, at the protos' own paths."""
    protos = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.proto"))
    outputs = [f"--{kind}_out={target}" for kind in ("python", "pyi", "grpc_python")]
    outputs.append(f"--mypy_grpc_out=quiet:{target}")
    # The plugin of this interpreter's environment, whether or not that environment is on PATH.
    outputs.append(f"--plugin={Path(sys.executable).with_name('protoc-gen-mypy_grpc')}")
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", *outputs, *protos], check=True)


def differing(fresh: Path) -> list[str]:
    """Return the stubs that are missing, changed or left over, as paths relative to `ROOT`."""
    committed = {path.relative_to(ROOT) for path in ROOT.rglob("*_pb2*.py*") if "__pycache__" not in path.parts}
    made = {path.relative_to(fresh) for path in fresh.rglob("*_pb2*.py*")}
    changed = {p for p in committed & made if (ROOT / p).read_bytes() != (fresh / p).read_bytes()}
    return sorted(str(path) for path in (committed ^ made) | changed)


def main() -> int:
    """Generate in place, or compare when called with --check."""
    if sys.argv[1:] not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    if not sys.argv[1:]:
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        stale = differing(Path(folder))
    for path in stale:
        print(f"stale stub: proto/{path} (run: make stubs)", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
