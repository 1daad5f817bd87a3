"""Damaged copies of a file: what a fuzz test feeds to a reader."""

import random
from collections.abc import Callable
from typing import Any

EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0xFFFF_FFFE, 1 << 20)
JSON_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 7, 1 << 31, 1 << 70, 0.5, -1e9, 1e308, float("inf"), float("nan")),
    *("", "x", "../x", "/etc/passwd", "a\0b", "\ud800", "x" * 5000, [], [1], {}, {"a": {}}),
)


def damaged(data: bytes, dice: random.Random, start_bytes: int = 256) -> bytes:
    """Return `data` with one to three things wrong with it, half of them within its first `start_bytes`."""
    for _ in range(dice.randint(1, 3)):
        data = dice.choice(DAMAGES)(bytearray(data), dice, min(start_bytes, len(data)) or 1)
    return data


def damaged_json(fields: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    """Return `fields` with a key gone, added, renamed or of another value, also within inner objects."""
    fields = dict(fields)
    key = dice.choice(list(fields) or ["a"])
    match dice.randrange(5):
        case 0:
            fields.pop(key, None)
        case 1:
            fields[f"{key}{dice.choice(['', '.weight', '_x'])}x"] = dice.choice(JSON_VALUES)
        case 2 if fields:
            fields[dice.choice(list(fields))] = fields.pop(key)
        case 3 if isinstance(fields.get(key), dict):
            fields[key] = damaged_json(fields[key], dice)
        case _:
            fields[key] = dice.choice(JSON_VALUES)
    return fields


def _cut(data: bytearray, dice: random.Random, start: int) -> bytes:
    return bytes(data[: dice.choice([0, 1, dice.randrange(start), dice.randrange(len(data) or 1), len(data) - 1])])


def _grow(data: bytearray, dice: random.Random, start: int) -> bytes:
    return bytes(data) + bytes(dice.randbytes(dice.choice([1, 4, 100])))


def _set_bytes(data: bytearray, dice: random.Random, start: int) -> bytes:
    for _ in range(dice.randint(1, 4)):
        if data:
            data[_place(data, dice, start)] = dice.randrange(256)
    return bytes(data)


def _set_number(data: bytearray, dice: random.Random, start: int) -> bytes:
    place = _place(data, dice, start) // 4 * 4
    width = dice.choice([4, 8])
    data[place : place + width] = dice.choice(EXTREMES).to_bytes(width, "little")
    return bytes(data)


def _swap(data: bytearray, dice: random.Random, start: int) -> bytes:
    one, other, size = _place(data, dice, start), _place(data, dice, start), dice.choice([1, 4, 32])
    data[one : one + size], data[other : other + size] = data[other : other + size], data[one : one + size]
    return bytes(data)


def _repeat(data: bytearray, dice: random.Random, start: int) -> bytes:
    place = _place(data, dice, start)
    return bytes(data[:place] + data[place : place + 64] * 2 + data[place + 64 :])


def _drop(data: bytearray, dice: random.Random, start: int) -> bytes:
    place = _place(data, dice, start)
    return bytes(data[:place] + data[place + dice.choice([1, 4, 64]) :])


def _place(data: bytearray, dice: random.Random, start: int) -> int:
    return dice.randrange(min(start, len(data)) if dice.random() < 0.5 and data else len(data) or 1)


DAMAGES: tuple[Callable[[bytearray, random.Random, int], bytes], ...] = (
    *(_cut, _grow, _set_bytes, _set_number, _swap, _repeat, _drop),
)
