"""best() is the head of a stable sort, ties included."""

import pytest
import torch
from torch import Tensor

from shard_worker.sampling.best import best


def rows(kind: str, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    values = torch.randn(3, size, generator=generator) * 4
    match kind:
        case "coarse":
            return values.round()
        case "equal":
            return torch.full((3, size), -1.5)
        case "negative":
            return -values.abs().round()
        case "bfloat16":
            return values.to(torch.bfloat16).float()
        case "masked":
            return values.round().masked_fill(values > 0, -torch.inf)
        case "signed zeros":
            return torch.where(values > 0, 0.0, -0.0)
        case _:
            return values


@pytest.mark.parametrize("kind", ["normal", "coarse", "equal", "negative", "bfloat16", "masked", "signed zeros"])
@pytest.mark.parametrize("size", [1, 2, 31, 32, 33, 100, 1000, 4097])
def test_equals_a_stable_sort(kind: str, size: int) -> None:
    values = rows(kind, size)
    expected = values.sort(dim=1, descending=True, stable=True)
    for k in {1, 2, 3, 8, 20, 31, 64, size}:
        if k <= size:
            indices, found = best(values, k)
            assert torch.equal(indices, expected.indices[:, :k])
            assert torch.equal(found, expected.values[:, :k])


def test_one_row_alone() -> None:
    values = torch.tensor([[1.0, 3.0, 3.0, 2.0]])
    assert best(values, 1)[0].tolist() == [[1]]
    assert best(values, 3)[0].tolist() == [[1, 2, 3]]


def test_a_nan_leaves_other_rows_alone() -> None:
    values = rows("normal", 5000)
    values[1, 77] = torch.nan
    indices, found = best(values, 8)
    assert indices.min() >= 0 and indices.max() < 5000
    for row in (0, 2):
        assert torch.equal(found[row], values[row].sort(descending=True).values[:8])
