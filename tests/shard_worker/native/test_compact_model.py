"""A whole model with compact weights: as near to the exact one as with plain weights, whatever the rows."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from shard_worker.batch import build_inputs
from shard_worker.checkpoint.reader import CheckpointReader
from shard_worker.model.attention import ATTENTION_PATHS
from shard_worker.model.kv_cache import KVCache
from shard_worker.model.weights import load_model
from shard_worker.native.compact import CompactLinear
from shard_worker.native.decoder import MAX_TOKENS
from shard_worker.native.library import Runner
from shard_worker.native.selection import native_decoder
from shard_worker.parallel import RankGroup
from shard_worker.partition import partition
from shard_worker.plan import Bounds, read_rows
from tests.support.local_ranks import LocalRanks
from tests.support.plans import PlanRow, make_plan
from tests.support.tiny_model import TinyShape, make_tiny_model

BLOCK_SIZE, NUM_BLOCKS = 16, 16
IDS = [(17 * at * at + 3) % 251 for at in range(150)]


class Decoder:
    """A model on one rank, by native code."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.bfloat16, compact: bool = True) -> None:
        device = torch.device("cpu")
        with CheckpointReader(folder) as reader:
            arch = reader.manifest.architecture
            part = partition(arch, 0, 1)
            self.model = load_model(reader, arch, part, RankGroup(0, 1, 1), ATTENTION_PATHS["fast"], dtype, device)
        self.cache = KVCache(arch.layers, NUM_BLOCKS, BLOCK_SIZE, part.kv_heads.size, arch.head_dim, dtype, device)
        native = native_decoder("on", "fast", self.model, self.cache, part, compact)
        assert native is not None
        self.native, self.dtype = native, dtype
        self.bounds = Bounds(NUM_BLOCKS, BLOCK_SIZE, arch.vocabulary_size, arch.context_length, 1024)

    def logits(self, chunks: list[int]) -> Tensor:
        """Return the logits at all positions of IDS, read in chunks of these lengths."""
        found, base = [], 0
        for length in chunks:
            row = PlanRow(0, base, IDS[base : base + length], list(range(NUM_BLOCKS)), sampled=length)
            base += length
            inputs = build_inputs(read_rows(make_plan([row]), self.bounds), BLOCK_SIZE, self.dtype, torch.device("cpu"))
            with torch.inference_mode():
                hidden = self.native(inputs) if self.native.takes(length) else self.model(inputs, self.cache)
                found.append(self.native.logits(hidden))
        return torch.cat(found)


@pytest.fixture
def compacts() -> None:
    """Only for a processor that multiplies compact weights."""
    if not Runner(1).packs:
        pytest.skip("this processor has no compact products")


@pytest.mark.usefixtures("compacts")
@pytest.mark.parametrize("tied", [False, True])
def test_it_is_as_near_to_exact_as_with_plain_weights(tmp_path: Path, tied: bool) -> None:
    folder = make_tiny_model(tmp_path, TinyShape(tied=tied), dtype="bfloat16").folder
    exact = Decoder(folder, torch.float32)
    plain, compact = Decoder(folder, compact=False), Decoder(folder)
    assert isinstance(compact.model.embedding, CompactLinear) and isinstance(compact.model.head, CompactLinear)
    assert (compact.model.head is compact.model.embedding) == tied
    assert compact.native.compact_saved_bytes > 0 == plain.native.compact_saved_bytes
    assert exact.native.compact_saved_bytes == 0
    for chunks in ([1] * 20, [9, 60], [150]):
        reference = exact.logits(chunks)
        errors = [(decoder.logits(chunks) - reference).abs().mean() for decoder in (plain, compact)]
        assert 0 < errors[1] < 1.3 * errors[0]


@pytest.mark.usefixtures("compacts")
def test_chunks_change_nothing(tmp_path: Path) -> None:
    decoder = Decoder(make_tiny_model(tmp_path, dtype="bfloat16").folder)
    if not decoder.native.takes(MAX_TOKENS + 1):
        pytest.skip("long steps are PyTorch's on this processor")
    whole = decoder.logits([150])
    for chunks in ([1] * 10 + [140], [64, 17, 69], [2, 3, 12, 100, 33]):
        assert torch.equal(decoder.logits(chunks), whole)


@pytest.mark.usefixtures("compacts")
def test_some_matrices_stay_plain(tmp_path: Path) -> None:
    """Long steps are PyTorch's then, which unpacks what is compact."""
    shape = TinyShape(query_heads=4, kv_heads=1, head_dim=20, intermediate_size=8)
    folder = make_tiny_model(tmp_path, shape, dtype="bfloat16").folder
    plain, compact = Decoder(folder, compact=False), Decoder(folder)
    kinds = {isinstance(layer.dense.down, CompactLinear) for layer in compact.model.layers}  # type: ignore[union-attr]
    assert kinds == {False} and isinstance(compact.model.head, CompactLinear)
    assert not compact.native.takes(MAX_TOKENS + 1)
    torch.testing.assert_close(compact.logits([150]), plain.logits([150]), atol=1e-5, rtol=1e-5)


def test_the_embedded_model_predicts_as_with_plain_weights(embedded_model: Path) -> None:
    losses = []
    for compact in (False, True):
        logits = Decoder(embedded_model, compact=compact).logits([50])
        losses.append(torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(IDS[1:50])))
    assert abs(losses[0] - losses[1]) < 0.02 * losses[0]


@pytest.mark.usefixtures("compacts")
def test_a_rank_says_what_it_saves(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path, dtype="bfloat16").folder
    saved = [
        LocalRanks(folder, dtype=dtype, compact_weights=compact).info.compact_saved_bytes
        for dtype, compact in (("bfloat16", True), ("bfloat16", False), ("float32", True))
    ]
    assert saved[0] > 0 and saved[1:] == [0, 0]
