"""A step of several passes: each pass's records and slices, as one step's."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shard_worker.sampling.records import PackedRecords, Resolvable, ResolvedSlice


@dataclass(frozen=True, slots=True)
class ContinuedStep:
    """What Resolve may ask for, of n passes: sampled position p lies in pass p % n, at its position p // n."""

    passes: Sequence[Resolvable]

    def resolve(self, position: int) -> ResolvedSlice:
        """As LastStep.resolve."""
        return self.passes[position % len(self.passes)].resolve(position // len(self.passes))


def join(passes: Sequence[PackedRecords], num_rows: int) -> PackedRecords:
    """Return the records of n passes over the same R rows, sampled once each, in row order: [R, n, words] each."""

    def joined(name: str) -> bytes:
        parts = [np.frombuffer(records.fields[name], dtype="<i4").reshape(num_rows, -1) for records in passes]
        return np.stack(parts, axis=1).tobytes()

    return PackedRecords({name: joined(name) for name in passes[0].fields})
