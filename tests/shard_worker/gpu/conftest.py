"""Where Triton kernels can run: on a GPU, or on a CPU with TRITON_INTERPRET=1."""

import os
from importlib.util import find_spec

import pytest
import torch

from tests.support.gpu_pair import MakeOperations


@pytest.fixture(scope="session")
def triton_device() -> torch.device:
    """The device that Triton kernels run on here."""
    if find_spec("triton") is None:
        pytest.skip("no Triton here: pip install triton, and set TRITON_INTERPRET=1 where there is no GPU")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("Triton needs a GPU, or TRITON_INTERPRET=1 in the environment")
    return torch.device("cpu")


@pytest.fixture
def triton_operations(triton_device: torch.device) -> MakeOperations:
    """The Triton kernels of a model."""
    from shard_worker.gpu.triton_operations import TritonOperations

    return TritonOperations
