"""The library, built once, and a runner of each instruction set that this machine has."""

import pytest

from common.errors import SettingsError
from shard_worker.native import build
from shard_worker.native.library import Runner

KERNELS = ("avx512_bf16", "avx512_vnni", "avx512", "avx2", "portable")


@pytest.fixture(autouse=True, scope="session")
def native_library() -> None:
    """The kernels, built where they are missing."""
    build.build()


@pytest.fixture(scope="session", params=KERNELS)
def runner(request: pytest.FixtureRequest) -> Runner:
    """Two threads with the kernels of one instruction set."""
    try:
        return Runner(2, request.param)
    except SettingsError as error:
        pytest.skip(str(error))
