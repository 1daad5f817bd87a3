"""The paged cache: what is written in a slot is what is read there, per layer, keys apart from values."""

import torch

from shard_worker.model.kv_cache import KVCache, bytes_per_token


def test_slots_and_layers_are_apart() -> None:
    cache = KVCache(2, 4, 8, 3, 5, torch.float32, torch.device("cpu"))
    first, second = torch.randn(2, 6, 5), torch.randn(2, 6, 5)
    cache.write(0, torch.tensor([31, 4]), first)
    cache.write(1, torch.tensor([31, 4]), second)
    for layer, written in ((0, first), (1, second)):
        keys, values = cache.read(layer, torch.tensor([[4, 31, 0], [0, 4, 4]]))
        assert keys.shape == values.shape == (2, 3, 3, 5)
        assert torch.equal(keys[0, :, 0], written[1, :3]) and torch.equal(values[0, :, 0], written[1, 3:])
        assert torch.equal(keys[0, :, 1], written[0, :3]) and torch.equal(values[1, :, 2], written[1, 3:])
        assert not keys[0, :, 2].any() and not values[1, :, 0].any()


def test_bytes_per_token_is_what_the_tensors_take() -> None:
    cache = KVCache(3, 2, 16, 2, 8, torch.bfloat16, torch.device("cpu"))
    keys, values = zip(*(cache.read(layer, torch.arange(32)[None]) for layer in range(3)), strict=True)
    total = sum(part.nbytes for part in keys + values)
    assert bytes_per_token(3, 2, 8, torch.bfloat16) * 32 == total
