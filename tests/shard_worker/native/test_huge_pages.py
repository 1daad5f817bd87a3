"""Moving a model's memory: nobody can tell but by the addresses."""

import pytest
import torch
from torch import nn

from shard_worker.native.huge_pages import move_to_huge_pages


class Model(nn.Module):
    """Two layers that share a weight, quantised buffers, and what is too small to move."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(301, 257)
        self.second = nn.Linear(301, 257)
        self.second.weight = nn.Parameter(self.first.weight.data)
        self.q: torch.Tensor
        self.register_buffer("q", torch.randint(-128, 128, (1000, 77), dtype=torch.int8))
        self.register_buffer("scale", torch.rand(1000, 40).bfloat16())


def test_values_and_sharing_stay() -> None:
    model = Model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    addresses = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    x = torch.randn(3, 301)
    expected = model.first(x)
    move_to_huge_pages(model)
    after = model.state_dict()
    moved = {name for name, tensor in after.items() if tensor.data_ptr() != addresses[name]}
    assert moved == {"first.weight", "second.weight", "q", "scale"}
    assert all(
        torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in before.items()
    )
    assert model.first.weight.data_ptr() == model.second.weight.data_ptr()
    assert all(after[name].data_ptr() % 64 == 0 for name in moved)
    torch.testing.assert_close(model.first(x), expected)
    with torch.no_grad():
        model.q[0, 0] = 5
    assert int(model.q[0, 0]) == 5


@pytest.mark.parametrize("model", [nn.Linear(3, 3), nn.ReLU()])
def test_nothing_to_move(model: nn.Module) -> None:
    addresses = [parameter.data_ptr() for parameter in model.parameters()]
    move_to_huge_pages(model)
    assert [parameter.data_ptr() for parameter in model.parameters()] == addresses
