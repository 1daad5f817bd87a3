"""What a check of this machine found."""

import json
from typing import Literal, NamedTuple

Level = Literal["ok", "warn", "fail"]


class Finding(NamedTuple):
    """One line of `tandem doctor`: how it stands with `subject`, and what to do where that is not well."""

    level: Level
    subject: str
    text: str
    advice: str = ""

    def line(self) -> str:
        """Return the line for people."""
        advice = f" -> {self.advice}" if self.advice else ""
        return f"{self.level:<4} {self.subject:<12} {self.text}{advice}"

    def to_json(self) -> str:
        """Return the line that a child process reports with."""
        return json.dumps(self._asdict())


def read_finding(line: str) -> Finding | None:
    """Return the finding that `to_json` wrote, or None where the line is something else."""
    try:
        return Finding(**json.loads(line))
    except (ValueError, TypeError):
        return None
