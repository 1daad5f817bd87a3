"""Values of the bench's flags: lists and ranges of numbers. Each function raises click.BadParameter."""

import click

MAX_DRAFT_TOKENS = 8  # SpeculationParams.max_draft_tokens


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


def temperatures(text: str) -> tuple[float, ...]:
    """Return temperatures that are separated by commas, each once: 0,0.7. 0 is greedy."""
    try:
        numbers = tuple(dict.fromkeys(map(float, _items(text))))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers") from None
    if not numbers or not all(0 <= number < float("inf") for number in numbers):
        raise click.BadParameter(f"{text!r}: at least one number is needed, and none below 0")
    return numbers


def draft_lengths(text: str) -> tuple[int, ...]:
    """Return draft lengths in tokens, least first: 0-8, or 0,2,4, or both."""
    lengths: set[int] = set()
    for item in _items(text):
        least, dash, most = item.partition("-")
        if not least.isdecimal() or (dash and not most.isdecimal()):
            raise click.BadParameter(f"{item!r} is neither a number nor a range like 0-8")
        ends = int(least), int(most if dash else least)
        if not ends[0] <= ends[1] <= MAX_DRAFT_TOKENS:
            raise click.BadParameter(f"{item!r} must end within {MAX_DRAFT_TOKENS} and not run backwards")
        lengths.update(range(ends[0], ends[1] + 1))
    if not lengths:
        raise click.BadParameter("at least one draft length is needed")
    return tuple(sorted(lengths))


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]
