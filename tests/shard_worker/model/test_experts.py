"""Experts: which of them a step reads, and that one rank's router speaks for all."""

import random
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common.manifest import Architecture
from common.manifest import Experts as ExpertShape
from shard_worker.checkpoint.output_folder import OutputFolder
from shard_worker.model.feed_forward import Experts
from shard_worker.model.llama import Layer
from shard_worker.parallel import RankGroup
from shard_worker.partition import partition
from shard_worker.quantization.quantize import Mode, QuantizeOptions, quantize
from tests.support.local_ranks import LocalRanks
from tests.support.tiny_families import make_family
from tests.support.tiny_manifest import tiny_manifest

WIDTH, COUNT, PER_TOKEN = 8, 5, 2


class OneOfTwo(RankGroup):
    """A rank of two; `heard` is what the other one adds in each all-reduce."""

    def __init__(self, rank: int, heard: list[Tensor]) -> None:
        super().__init__(rank, 2, epoch=1)
        self.said: list[Tensor] = []
        self._heard = heard

    def all_reduce(self, part: Tensor) -> Tensor:
        """Return the sum."""
        self.said.append(part.clone())
        return part + self._heard.pop(0) if self._heard else part


def experts(group: RankGroup) -> Experts:
    arch = Architecture.model_validate(tiny_manifest({"hidden_size": WIDTH})["architecture"])
    part = partition(arch, group.rank, group.world_size)
    module = Experts(arch, part, group, ExpertShape(count=COUNT, per_token=PER_TOKEN))
    with torch.no_grad():
        for at, parameter in enumerate(module.parameters()):
            generator = torch.Generator().manual_seed(at + 10 * group.rank)
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def chosen_by(module: Experts, x_NM: Tensor) -> Counter[int]:
    """Return how many tokens each expert computed; an expert that was not called is not in it."""
    tokens: Counter[int] = Counter()
    for index, expert in enumerate(module.experts):

        def count(_: torch.nn.Module, arguments: tuple[Tensor], index: int = index) -> None:
            assert index not in tokens, "an expert was read twice in one step"
            tokens[index] += len(arguments[0])

        expert.register_forward_pre_hook(count)
    module(x_NM)
    return tokens


@torch.inference_mode()
def test_one_token_reads_its_own_experts_only() -> None:
    x_NM = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(3))
    module = experts(RankGroup(0, 1, epoch=1))
    best = torch.topk(module.router(x_NM), PER_TOKEN).indices[0].tolist()
    assert chosen_by(module, x_NM) == Counter(best)


@torch.inference_mode()
def test_weights_may_be_left_without_a_sum_of_1() -> None:
    """Grok-1's: with norms of outputs, which forgive a factor, no logits would tell."""
    x_NM = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(3))
    module = experts(RankGroup(0, 1, epoch=1))
    shares_N = torch.softmax(module.router(x_NM), dim=-1).topk(PER_TOKEN).values.sum(dim=-1)
    normalized_NM = module(x_NM)
    module.normalized = False
    torch.testing.assert_close(module(x_NM), normalized_NM * shares_N[:, None])
    assert float(shares_N.max()) < 0.99


@torch.inference_mode()
def test_a_long_step_reads_each_expert_once() -> None:
    x_NM = torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(3))
    tokens = chosen_by(experts(RankGroup(0, 1, epoch=1)), x_NM)
    assert set(tokens) == set(range(COUNT)) and tokens.total() == 64 * PER_TOKEN


@torch.inference_mode()
def test_rank_0_decides_for_all() -> None:
    x_NM = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(3))
    first = OneOfTwo(0, [])
    decided = chosen_by(experts(first), x_NM)
    second = OneOfTwo(1, [first.said[0]])
    # Its own router has other weights: what it computes is of no account.
    assert chosen_by(experts(second), x_NM) == decided
    assert not second.said[0].any()


class BytesRead(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Which of these tensors any operation is given while the mode is on, and how many bytes they have."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sizes = {tensor.untyped_storage().data_ptr(): tensor.nbytes for tensor in tensors}
        self._read: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        self._read |= {tensor.untyped_storage().data_ptr() for tensor in given} & self._sizes.keys()
        return func(*args, **(kwargs or {}))

    @property
    def count(self) -> int:
        """Bytes of what was read so far."""
        return sum(self._sizes[pointer] for pointer in self._read)


def count_bytes(module: Experts, counted: list[int]) -> None:
    """From now on append to `counted` how many bytes of its experts each step reads."""
    forward = module.forward

    def counting(x_NM: Tensor) -> Tensor:
        with BytesRead(tensors_of(module.experts)) as bytes_read:
            part_NM = forward(x_NM)
        counted.append(bytes_read.count)
        return part_NM

    module.forward = counting  # type: ignore[method-assign]


def tensors_of(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


@pytest.mark.parametrize(("name", "mode"), [("mixtral", None), ("mixtral", "int4"), ("dbrx", "int8")])
@pytest.mark.parametrize("tp", [1, 2])
def test_a_decode_step_reads_the_bytes_of_active_experts_only(
    tmp_path: Path, name: str, mode: Mode | None, tp: int
) -> None:
    folder = make_family(tmp_path, name).folder
    if mode is not None:
        with OutputFolder(tmp_path / "quantized") as output:
            quantize(folder, output, "tiny", QuantizeOptions(mode), lambda *_: None)
        folder = tmp_path / "quantized"
    active: list[int] = []
    counts: list[list[int]] = []
    with LocalRanks(folder, tp) as ranks:
        for engine in ranks.engines:
            for layer in engine._forward.model.layers:
                assert isinstance(layer, Layer) and isinstance(layer.feed_forward, Experts)
                module = layer.feed_forward
                bytes_of = {sum(tensor.nbytes for tensor in tensors_of(expert)) for expert in module.experts}
                active.append(module.per_token * bytes_of.pop())
                assert not bytes_of and module.per_token < len(module.experts)
                counts.append([])
                count_bytes(module, counts[-1])
        ranks.driver().generate([[1]], 4)
    # The prompt's one token, then three decode steps.
    assert counts == [[bytes_read] * 4 for bytes_read in active]


def test_prefill_is_grouped_by_expert(tmp_path: Path) -> None:
    """512 tokens in one step against tokens one by one, of which a quarter is enough; measured: 60 times and more."""
    prompt = random.Random(5).choices(range(259), k=512)

    def seconds_a_token(num_tokens: int, chunk_tokens: int) -> float:
        driver = ranks.driver()
        start = time.perf_counter()
        driver.generate([prompt[:num_tokens]], 1, chunk_tokens=chunk_tokens)
        return (time.perf_counter() - start) / num_tokens

    with LocalRanks(make_family(tmp_path, "mixtral").folder, 2, max_step_tokens=512) as ranks:
        seconds_a_token(512, 512)
        pairs = [(seconds_a_token(128, 1), seconds_a_token(512, 512)) for _ in range(3)]
    assert max(one_by_one / grouped for one_by_one, grouped in pairs) > 3, pairs
