"""One step of the draft's engine: lines of many requests read on, and those that are read up draft a token."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common.arrays import I32, U32, to_wire
from draft_worker.chain import Chain, Line
from draft_worker.choice import NUM_NOISED, NUM_NOISED_TRUNCATED, NUM_TOP, Records, truncates
from draft_worker.text import Drawing
from shard_worker.engine import Engine
from tandem.shard.v1 import shard_service_pb2 as pb

Beta = Callable[[Drawing], float]


@dataclass(frozen=True, slots=True)
class Row:
    """A line that reads its next `num_ids` ids."""

    chain: Chain
    line: Line
    num_ids: int

    @property
    def drafts(self) -> bool:
        """Whether the row reads the line's last id, and so draws the next one."""
        return self.line.num_read + self.num_ids == self.chain.length(self.line)

    @property
    def can_continue(self) -> bool:
        """Whether the engine can feed what it draws: the draft's token is then always the best by noised score."""
        return self.drafts and not truncates(self.chain.text.drawing.sampling)


class Stepper:
    """Runs rows on an engine of one rank. `closed` holds sequences the engine is still to be told to forget."""

    def __init__(self, engine: Engine, beta: Beta, closed: list[int]) -> None:
        self._engine, self._beta, self._closed = engine, beta, closed
        self._num_opened = 0
        self._unused: list[int] = []

    def run(self, rows: Sequence[Row], continued: int = 0) -> None:
        """Run at least one row; each line's tokens and num_read are then up to date. Blocks must have been given.

        Rows that all `can_continue` may go on by so many tokens more in the same step.
        """
        plan = self._plan(rows, continued)
        result = self._engine.step(plan, time.perf_counter_ns())
        drafting, count = [row for row in rows if row.drafts], 1 + continued
        records = Records.of(result, len(drafting) * count) if drafting else None
        for row in rows:
            row.line.num_read += row.num_ids + continued
        for place, row in enumerate(drafting):
            assert records is not None
            sampling = row.chain.text.drawing.sampling
            row.line.tokens += [records.token(place * count + index, sampling) for index in range(count)]

    def _plan(self, rows: Sequence[Row], continued: int) -> pb.Plan:
        closes, self._closed[:] = self._closed[:], []
        opens = [self._open(row) for row in rows if row.line.sequence is None]
        truncated = any(row.drafts and truncates(row.chain.text.drawing.sampling) for row in rows)
        ids = [row.chain.ids(row.line, row.line.num_read, row.line.num_read + row.num_ids) for row in rows]
        plan = pb.Plan(
            opens=opens,
            closes=to_wire(closes, U32),
            row_sequences=to_wire([row.line.sequence or 0 for row in rows], U32),
            row_base_lengths=to_wire([row.line.num_read for row in rows], U32),
            row_lengths=to_wire([row.num_ids for row in rows], U32),
            row_sampled=to_wire([int(row.drafts) for row in rows], U32),
            row_scored=to_wire([0] * len(rows), U32),
            token_ids=to_wire(np.concatenate(ids), I32),
            row_blocks=to_wire([len(row.line.blocks) for row in rows], U32),
            block_tables=to_wire([block for row in rows for block in row.line.blocks], I32),
            num_noised=NUM_NOISED_TRUNCATED if truncated else NUM_NOISED,
            num_top=NUM_TOP if truncated else 0,
            row_continued=to_wire([continued] * len(rows), U32) if continued else b"",
        )
        # Numbers are free again once the engine has been told.
        self._unused += closes
        return plan

    def _open(self, row: Row) -> pb.SequenceOpen:
        """Open the row's line under an unused number. The draft's temperature is the target's times beta."""
        drawing, line = row.chain.text.drawing, row.line
        sampling = drawing.sampling
        if not self._unused:
            self._num_opened += 1
            self._unused.append(self._num_opened)
        line.sequence = self._unused.pop()
        penalised = (
            sampling.repetition_penalty != 1 or sampling.presence_penalty != 0 or sampling.frequency_penalty != 0
        )
        return pb.SequenceOpen(
            sequence=line.sequence,
            seed=sampling.seed,
            temperature=sampling.temperature * self._beta(drawing) if sampling.temperature else 0.0,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            bias_ids=sampling.bias_ids,
            bias_values=sampling.bias_values,
            prompt_length=drawing.prompt_length,
            history=to_wire(row.chain.ids(line, 0, line.num_read), I32) if penalised else b"",
        )
