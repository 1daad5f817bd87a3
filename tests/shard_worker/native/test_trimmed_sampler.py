"""Native draws among a trimmed head's tokens are PyTorch's among all, of which the others have no chance."""

import numpy as np
import pytest
import torch

from common.arrays import F32
from shard_worker.model.linear import FloatLinear
from shard_worker.model.trimmed_head import TrimmedHead
from shard_worker.native.library import Runner
from shard_worker.native.sampler import NativeSampler
from shard_worker.sampling.records import sample_records
from shard_worker.sampling.state import SequenceState
from shard_worker.sampling.wire import pack
from tandem.shard.v1.shard_service_pb2 import SequenceOpen


@pytest.mark.parametrize("spread", [0.01, 8.0])
@pytest.mark.parametrize("lengths", [(1, 0, 0), (8, 64, 5)])
def test_as_pytorch(runner: Runner, lengths: tuple[int, int, int], spread: float) -> None:
    random = torch.Generator().manual_seed(5)
    ids_N = torch.randperm(49_152, generator=random)[:3001].sort().values
    head = TrimmedHead(FloatLinear(torch.zeros(len(ids_N), 4)), ids_N, 49_152)
    kept_PN = torch.randn(8, len(ids_N), generator=random) * spread
    kept_PN[:, 700] = kept_PN[:, 2000] = kept_PN.max()  # ties go to the lower id
    opens = (SequenceOpen(repetition_penalty=1, temperature=t, seed=9) for t in [0, 1, 0.7, 3] * 2)
    states, positions = [SequenceState.open(opening) for opening in opens], list(range(20, 28))
    ours, last = NativeSampler(runner, 0, head)(kept_PN, states, positions, *lengths)
    records, whole = sample_records(head.widened(kept_PN), states, positions, 0, *lengths)
    for name, data in pack(records).fields.items():
        if name.endswith("ids"):
            assert ours.fields[name] == data, name
        else:
            got, expected = (np.frombuffer(each, F32) for each in (ours.fields[name], data))
            np.testing.assert_allclose(got, expected, rtol=1e-6, atol=4e-6, err_msg=name)
    torch.testing.assert_close(last.resolve(3).scores, whole.resolve(3).scores)
