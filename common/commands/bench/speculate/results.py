"""Everything that one run of `tandem bench speculate` found out, and its form as JSON."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from common.commands.bench.results import Run
from common.commands.bench.speculate.cell import Cell, Key
from common.commands.bench.speculate.formula import predicted_tokens_per_s

FORMAT = "tandem-bench-speculate/1"


@dataclass(frozen=True)
class SpeculationResults(Run):
    """What one run of `tandem bench speculate` found out, and what the formula makes of it."""

    cells: tuple[Cell, ...]

    @property
    def predictions(self) -> dict[Key, float]:
        """The formula's tokens per second of each cell that it can say something of."""
        return predicted_tokens_per_s(self.cells)

    def speed_up(self, cell: Cell) -> float | None:
        """Return a cell's rate over that of the same proposer's cluster without drafts; None where one is missing."""
        plain = next((other for other in self.cells if other.key == cell.key._replace(max_draft_tokens=0)), None)
        if plain is None or not plain.tokens_per_s or cell.tokens_per_s is None:
            return None
        return cell.tokens_per_s / plain.tokens_per_s

    def to_json(self) -> str:
        """Return the run as one JSON object: the counts of each cell, and what is derived from them.

        null stands for what could not be measured.
        """
        fields: dict[str, Any] = {"format": FORMAT} | asdict(self)
        predictions = self.predictions
        for cell, cell_fields in zip(self.cells, fields["cells"], strict=True):
            del cell_fields["key"]
            cell_fields |= cell.key._asdict() | {
                "tokens_per_s": cell.tokens_per_s,
                "speed_up": self.speed_up(cell),
                "acceptance": cell.acceptance,
                "acceptance_at": cell.acceptance_at,
                "tokens_per_pass": cell.tokens_per_pass,
                "drafted_share": cell.drafted_share,
                "wait_ms_per_round": cell.wait_ms_per_round,
                "predicted_tokens_per_s": predictions.get(cell.key),
            }
        return json.dumps(fields, indent=2)
