"""Values of the bench's flags: lists and ranges of numbers. Each function raises click.BadParameter."""

import click


def integers(text: str) -> tuple[int, ...]:
    """Return whole numbers greater than 0 that are separated by commas: 1,4,16."""
    items = _items(text)
    if not all(item.isdecimal() and int(item) for item in items):
        raise click.BadParameter(f"{text!r} is not a list of whole numbers greater than 0")
    return tuple(map(int, items))


def rates(text: str) -> tuple[float, ...]:
    """Return numbers greater than 0 that are separated by commas: 0.5,2."""
    try:
        numbers = tuple(map(float, _items(text)))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers") from None
    if not all(0 < number < float("inf") for number in numbers):
        raise click.BadParameter(f"{text!r}: each number must be greater than 0")
    return numbers


def length_range(text: str) -> tuple[int, int]:
    """Return a length in tokens as a range with both ends: 32, or 16-64."""
    least, dash, most = text.partition("-")
    if not least.isdecimal() or (dash and not most.isdecimal()):
        raise click.BadParameter(f"{text!r} is neither a number nor a range like 16-64")
    ends = int(least), int(most if dash else least)
    if not 1 <= ends[0] <= ends[1]:
        raise click.BadParameter(f"{text!r} must begin with 1 or more and not run backwards")
    return ends


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]
