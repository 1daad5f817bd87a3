"""Records as the bytes fields of tandem.shard.v1.StepResult."""

from dataclasses import fields
from itertools import accumulate

import torch

from shard_worker.sampling.records import PackedRecords, SampledRecords, ScoredRecords


def pack(records: SampledRecords | ScoredRecords) -> PackedRecords:
    """Return the records, fetched with one copy from the device, which waits for what computes them."""
    names = [field.name for field in fields(records)]
    words = [getattr(records, name).flatten().view(torch.int32) for name in names]
    data = torch.cat(words).cpu().numpy().astype("<i4", copy=False).tobytes()
    ends = list(accumulate(4 * len(values) for values in words))
    return PackedRecords({name: data[start:end] for name, start, end in zip(names, [0, *ends], ends, strict=False)})
