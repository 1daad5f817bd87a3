"""Records as the bytes fields of tandem.shard.v1.StepResult."""

from dataclasses import fields

import torch

from shard_worker.sampling.records import SampledRecords, ScoredRecords


def wire_fields(records: SampledRecords | ScoredRecords) -> dict[str, bytes]:
    """Return the records' StepResult fields by name. Takes one copy from the device."""
    names = [field.name for field in fields(records)]
    words = [getattr(records, name).flatten().view(torch.int32) for name in names]
    data = torch.cat(words).cpu().numpy().astype("<i4", copy=False).tobytes()
    result, start = {}, 0
    for name, values in zip(names, words, strict=True):
        end = start + 4 * len(values)
        result[name] = data[start:end]
        start = end
    return result
