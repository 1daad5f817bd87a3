"""Records as the bytes fields of tandem.shard.v1.StepResult."""

from dataclasses import dataclass, fields

import torch

from shard_worker.sampling.records import SampledRecords, ScoredRecords
from tandem.shard.v1.shard_service_pb2 import StepResult


@dataclass(frozen=True)
class PackedRecords:
    """Records on the host: names of StepResult's fields, how many bytes each has, and all bytes in that order."""

    names: list[str]
    sizes: list[int]
    data: bytes

    def fill(self, result: StepResult) -> None:
        """Set the fields of `result` that the records are named after."""
        start = 0
        for name, size in zip(self.names, self.sizes, strict=True):
            setattr(result, name, self.data[start : start + size])
            start += size


def pack(records: SampledRecords | ScoredRecords) -> PackedRecords:
    """Return the records, fetched with one copy from the device, which waits for what computes them."""
    names = [field.name for field in fields(records)]
    words = [getattr(records, name).flatten().view(torch.int32) for name in names]
    data = torch.cat(words).cpu().numpy().astype("<i4", copy=False).tobytes()
    return PackedRecords(names, [4 * len(values) for values in words], data)
