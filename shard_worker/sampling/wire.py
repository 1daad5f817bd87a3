"""Records as the bytes fields of tandem.shard.v1.StepResult."""

from dataclasses import dataclass, fields
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch

from common.arrays import F32, I32, to_wire
from shard_worker.sampling.records import LastStep, SampledRecords, ScoredRecords, Summarize
from tandem.shard.v1.shard_service_pb2 import StepResult


@dataclass(frozen=True)
class PackedRecords:
    """Records on the host: the bytes of those fields of StepResult that are not empty."""

    fields: dict[str, bytes]

    def fill(self, result: StepResult) -> None:
        """Set the fields of `result` that the records are named after."""
        for name, data in self.fields.items():
            setattr(result, name, data)


def pack(records: SampledRecords | ScoredRecords) -> PackedRecords:
    """Return the records, fetched with one copy from the device, which waits for what computes them."""
    names = [field.name for field in fields(records)]
    words = [getattr(records, name).flatten().view(torch.int32) for name in names]
    data = torch.cat(words).cpu().numpy().astype("<i4", copy=False).tobytes()
    ends = list(accumulate(4 * len(values) for values in words))
    return PackedRecords({name: data[start:end] for name, start, end in zip(names, [0, *ends], ends, strict=False)})


def pack_winners(step: LastStep, summarize: Summarize) -> PackedRecords:
    """Return the records of a step that asks for each position's best token alone, which native code finds.

    Each tensor is looked at once, and none is made: at one row the making would take longer than the looking.
    """
    at_P, best_P, lse_P = summarize(step.scores_PV)
    processed, processed_lse = best_P, lse_P
    if step.scores_PV is not step.processed_PV:
        processed, processed_lse = _at(step.processed_PV, at_P), summarize(step.processed_PV)[2]
    raw, raw_lse = processed, processed_lse
    if step.raw_PV is not step.processed_PV:
        raw, raw_lse = _at(step.raw_PV, at_P), summarize(step.raw_PV)[2]
    return PackedRecords(
        {
            "noised_ids": to_wire(at_P + step.first_id, I32),
            "noised_scores": to_wire(best_P, F32),
            "noised_processed": to_wire(processed, F32),
            "noised_raw": to_wire(raw, F32),
            "processed_lse": to_wire(processed_lse, F32),
            "raw_lse": to_wire(raw_lse, F32),
        }
    )


def _at(values_PV: torch.Tensor, at_P: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    values: npt.NDArray[np.float32] = values_PV.numpy()[np.arange(len(at_P)), at_P]
    return values
