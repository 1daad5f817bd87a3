"""The cells for people: a table that fits a terminal."""

from collections.abc import Iterator

from common.commands.bench.speculate.cell import Cell
from common.commands.bench.speculate.results import SpeculationResults
from common.commands.bench.table import NONE, aligned, head_lines

HEADER = (
    "proposer", "T", "K", "tok/s", "x K=0", "accepted %", "tok/pass", "drafted %", "wait ms", "formula", "of it",
)  # fmt: skip


def table_lines(results: SpeculationResults) -> Iterator[str]:
    """Yield the lines of the terminal's report."""
    work = results.work
    yield from head_lines(results)
    drafted_by = f", draft worker {work['draft']}" if work["draft"] else ""
    yield (
        f"text {work['text']}: {work['prompts']} prompts x {work['repeats']}, one at a time, "
        f"answers of at most {work['max_tokens']} tokens{drafted_by}"
    )
    yield ""
    yield from aligned(HEADER, [_row(results, cell) for cell in results.cells])
    yield ""
    yield "accepted %: of drafted tokens. drafted %: of passes; wait: how long each of those was held back for a worker"
    yield "formula: tok/s by chances and costs taken from all K together; of it: how much was reached"
    for cell in results.cells:
        if cell.failures:
            yield f"{cell.key}: {len(cell.failures)} of {len(cell.failures) + cell.requests} failed: {cell.failures[0]}"


def _row(results: SpeculationResults, cell: Cell) -> tuple[str, ...]:
    predicted = results.predictions.get(cell.key)
    reached = cell.tokens_per_s / predicted if predicted and cell.tokens_per_s is not None else None
    return (
        cell.key.proposer,
        f"{cell.key.temperature:g}",
        str(cell.key.max_draft_tokens),
        _number(cell.tokens_per_s, 1),
        _number(results.speed_up(cell), 2),
        _number(cell.acceptance, 1, 100),
        _number(cell.tokens_per_pass, 2),
        _number(cell.drafted_share, 0, 100),
        _number(cell.wait_ms_per_round, 2),
        _number(predicted, 1),
        _number(reached, 2),
    )


def _number(value: float | None, digits: int, factor: float = 1) -> str:
    return NONE if value is None else f"{value * factor:.{digits}f}"
