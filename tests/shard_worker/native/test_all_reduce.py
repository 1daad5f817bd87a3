"""Between ranks: the group's all_reduce is called from native code, and its errors come back out."""

import ctypes

import pytest
import torch
from torch import Tensor

from common.errors import Unavailable
from shard_worker.batch import build_inputs
from shard_worker.checkpoint.reader import CheckpointReader
from shard_worker.model.attention import ATTENTION_PATHS
from shard_worker.model.kv_cache import KVCache
from shard_worker.model.llama import StepInputs
from shard_worker.model.weights import load_model
from shard_worker.native.decoder import NativeAllReduce, NativeDecoder
from shard_worker.native.library import Runner
from shard_worker.native.structures import AllReduceFunction
from shard_worker.parallel import RankGroup
from shard_worker.partition import partition
from shard_worker.plan import Bounds, read_rows
from tests.support.local_ranks import LocalRanks
from tests.support.plans import PlanRow, make_plan
from tests.support.tiny_model import TinyModel

CPU = torch.device("cpu")
PROMPTS = [list(b"Hello"), list(b"There is a longer prompt as well, of several chunks of ids")]


class DoublingGroup(RankGroup):
    """Rank 0 of two, whose partner always has the same part; lost at call `lost_at`."""

    def __init__(self, lost_at: int | None = None) -> None:
        super().__init__(0, 2, 1)
        self.calls, self.lost_at = 0, lost_at

    def all_reduce(self, part: Tensor) -> Tensor:
        """Return twice the part."""
        self.calls += 1
        if self.calls == self.lost_at:
            raise Unavailable("the other rank was lost")
        return part * 2


def decoder(
    model: TinyModel, group: RankGroup, all_reduce: NativeAllReduce | None = None
) -> tuple[NativeDecoder, StepInputs]:
    with CheckpointReader(model.folder) as reader:
        arch = reader.manifest.architecture
        part = partition(arch, 0, 2)
        llama = load_model(reader, arch, part, group, ATTENTION_PATHS["fast"], torch.float32, CPU)
    cache = KVCache(arch.layers, 4, 16, part.kv_heads.size, arch.head_dim, torch.float32, CPU)
    row = PlanRow(1, 0, [1, 2, 3], [2], sampled=2)
    bounds = Bounds(4, 16, arch.vocabulary_size, arch.context_length, 64)
    inputs = build_inputs(read_rows(make_plan([row]), bounds), 16, torch.float32, CPU)
    return NativeDecoder(llama, cache, part, Runner(2), all_reduce), inputs


def test_native_functions_do_as_the_group_s_own(tiny_model: TinyModel) -> None:
    def double(context: int, part: int, total: int, count: int) -> int:
        assert context == 77
        source, target = (ctypes.cast(at, ctypes.POINTER(ctypes.c_float * count)).contents for at in (part, total))
        target[:] = [2 * value for value in source]
        return 0

    function = AllReduceFunction(double)
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    native = NativeAllReduce(address, 77, lambda result: None)
    with torch.inference_mode():
        run, inputs = decoder(tiny_model, group := DoublingGroup())
        through_python = run(inputs)
        # The embedding's, and two a layer.
        assert group.calls == 1 + 2 * len(tiny_model.reference.model.layers)
        run, inputs = decoder(tiny_model, group := DoublingGroup(), native)
        assert torch.equal(run(inputs), through_python)
        assert group.calls == 0
    assert through_python.isfinite().all() and through_python.abs().max() > 0


@pytest.mark.parametrize("lost_at", [2, 3, 5])
def test_a_lost_group_is_told(tiny_model: TinyModel, lost_at: int) -> None:
    run, inputs = decoder(tiny_model, group := DoublingGroup(lost_at))
    with torch.inference_mode(), pytest.raises(Unavailable, match="the other rank was lost"):
        run(inputs)
    assert group.calls == lost_at, "the step went on"


def test_a_native_failure_is_told(tiny_model: TinyModel) -> None:
    results: list[int] = []
    function = AllReduceFunction(lambda context, part, total, count: 5)
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    run, inputs = decoder(tiny_model, DoublingGroup(), NativeAllReduce(address, 0, results.append))
    with torch.inference_mode():
        run(inputs)
    assert results == [5]


@pytest.mark.parametrize("tp", [1, 2, 3])
def test_ranks_say_what_pytorch_s_ranks_say(tiny_model: TinyModel, tp: int) -> None:
    answers = []
    for native in ("on", "off"):
        with LocalRanks(tiny_model.folder, tp, native=native) as ranks:
            answers.append(ranks.driver().generate(PROMPTS, 8, chunk_tokens=20))
    for ours, theirs in zip(*answers, strict=True):
        assert ours.ids == theirs.ids
        assert ours.first_row is not None and theirs.first_row is not None
        assert abs(ours.first_row - theirs.first_row).max() < 1e-5
