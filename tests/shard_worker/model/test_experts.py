"""Experts: which of them a step reads, and that one rank's router speaks for all."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from common.manifest import Architecture
from common.manifest import Experts as ExpertShape
from shard_worker.model.feed_forward import Experts
from shard_worker.model.llama import Layer
from shard_worker.parallel import RankGroup
from shard_worker.partition import partition
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


@pytest.mark.parametrize("tp", [1, 2])
def test_a_decode_step_of_a_whole_model_leaves_experts_alone(tmp_path: Path, tp: int) -> None:
    model = make_family(tmp_path, "mixtral")
    with LocalRanks(model.folder, tp) as ranks:
        counted: Counter[tuple[int, int]] = Counter()
        for rank, engine in enumerate(ranks.engines):
            for layer, module in enumerate(engine._forward.model.layers):
                assert isinstance(module, Layer) and isinstance(module.feed_forward, Experts)
                for expert in module.feed_forward.experts:
                    expert.register_forward_pre_hook(lambda *_, at=(rank, layer): counted.update([at]))
        ranks.driver().generate([[1]], 4)
    # Four steps of one token, each of which goes to two of five experts.
    assert dict(counted) == {(rank, layer): 4 * PER_TOKEN for rank in range(tp) for layer in range(3)}
