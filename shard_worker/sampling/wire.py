"""Records as the bytes fields of tandem.shard.v1.StepResult."""

from dataclasses import fields

import torch

from shard_worker.sampling.records import SampledRecords, ScoredRecords
from tandem.shard.v1.shard_service_pb2 import StepResult


def fill_result(result: StepResult, records: SampledRecords | ScoredRecords) -> None:
    """Set the fields of `result` that the records are named after. Takes one copy from the device."""
    names = [field.name for field in fields(records)]
    words = [getattr(records, name).flatten().view(torch.int32) for name in names]
    data = torch.cat(words).cpu().numpy().astype("<i4", copy=False).tobytes()
    start = 0
    for name, values in zip(names, words, strict=True):
        end = start + 4 * len(values)
        setattr(result, name, data[start:end])
        start = end
