"""What the gateway is asked: prompts whose answers are plain prose, or mostly repeat the prompt."""

from pathlib import Path
from typing import Literal

import click

Text = Literal["natural", "repetitive"]

NATURAL = (
    "Explain to a curious child why the sky is blue during the day and red in the evening.",
    "Write a short story about a lighthouse keeper who finds a message in a bottle.",
    "What should somebody think about before they adopt a dog? Give reasons.",
    "Describe how bread is made, from the field to the table.",
    "Summarise the causes and the course of the French Revolution.",
)

_CODE = '''def area(width, height):
    """Return the area of a rectangle."""
    if width < 0 or height < 0:
        raise ValueError("sides must not be negative")
    return width * height


def perimeter(width, height):
    """Return the perimeter of a rectangle."""
    if width < 0 or height < 0:
        raise ValueError("sides must not be negative")
    return 2 * (width + height)
'''

_MINUTES = """The council met on Monday at seven in the town hall. The mayor reported that the bridge over the
river will be closed for repairs from April to June. The school asked for a new roof, which will cost forty thousand.
The council decided to pay for the roof this year and to repair the road to the station next year."""

_TABLE = """name,city,born
Ada Lovelace,London,1815
Alan Turing,London,1912
Grace Hopper,New York,1906
Edsger Dijkstra,Rotterdam,1930
"""

REPETITIVE = (
    f"Write this code again, with the name `height` changed to `depth`:\n\n{_CODE}",
    f"Repeat this text word for word:\n\n{_MINUTES}",
    f"Quote each sentence of this text, and say after each quote in a few words what it is about:\n\n{_MINUTES}",
    f"Copy this table, and then copy it again:\n\n{_TABLE}",
)


def prompts_of(text: Text, files: tuple[Path, ...]) -> tuple[str, ...]:
    """Return the contents of `files`, a prompt each, or without any the prompts of that kind of text.

    Raises click.ClickException when a file cannot be read as UTF-8, or holds nothing.
    """
    if not files:
        return NATURAL if text == "natural" else REPETITIVE
    return tuple(_read(path) for path in files)


def _read(path: Path) -> str:
    try:
        prompt = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{path}: {error}") from None
    if not prompt.strip():
        raise click.ClickException(f"{path}: an empty prompt")
    return prompt
