"""Damage to GGUF files, of every kind that a parser may stumble over."""

import random
import struct
from collections.abc import Callable

from gguf.constants import GGMLQuantizationType, GGUFValueType

from shard_worker.checkpoint.gguf_file import GgufFile

LENGTHS = (0, 1, 255, 4097, 1 << 20, (1 << 31) - 1, 1 << 32, 1 << 48, (1 << 63) - 1, (1 << 64) - 1)
NUMBERS = (0, 1, 3, 255, 4096, 1 << 16, 1 << 24, (1 << 31) - 1, (1 << 32) - 1)
FLOATS = (0.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e-45, 3e38)

Damage = Callable[[bytearray, "GgufPlaces", random.Random], bytearray]


class GgufPlaces:
    """Where in a sound file's bytes its entries and tensors are described, and where the data begin."""

    def __init__(self, file: GgufFile, data: bytes) -> None:
        self.header_end = min(tensor.offset for tensor in file.tensors.values())
        self.values = {key: data.index(_string(key)) + 8 + len(key) for key in file.metadata}
        self.tensors = {name: data.index(_string(name)) for name in file.tensors}
        self.dimensions = {name: len(tensor.shape) for name, tensor in file.tensors.items()}

    def info(self, name: str) -> slice:
        """Return where a tensor's dimensions, type and offset stand."""
        start = self.tensors[name] + 8 + len(name)
        return slice(start, start + 4 + 8 * self.dimensions[name] + 4 + 8)


def truncated(data: bytearray, places: GgufPlaces, random: random.Random) -> bytearray:
    return data[: random.randrange(random.choice((places.header_end, len(data))))]


def changed_bytes(data: bytearray, places: GgufPlaces, random: random.Random) -> bytearray:
    for _ in range(random.choice((1, 1, 2, 8))):
        data[random.randrange(places.header_end)] = random.randrange(256)
    return data


def changed_weights(data: bytearray, places: GgufPlaces, random: random.Random) -> bytearray:
    for _ in range(100):
        data[random.randrange(places.header_end, len(data))] = random.choice((0, 0x7C, 0x7F, 0xFF))
    return data


def huge_lengths(data: bytearray, places: GgufPlaces, random: random.Random) -> bytearray:
    struct.pack_into("<Q", data, random.randrange(places.header_end - 8), random.choice(LENGTHS))
    return data


def huge_counts(data: bytearray, places: GgufPlaces, random: random.Random) -> bytearray:
    struct.pack_into("<Q", data, random.choice((8, 16)), random.choice(LENGTHS))
    return data


def shifted(data: bytearray, places: GgufPlaces, random: random.Random) -> bytearray:
    at = random.randrange(places.header_end)
    if random.random() < 0.5:
        del data[at : at + random.randrange(1, 40)]
    else:
        data[at:at] = random.randbytes(random.randrange(1, 40))
    return data


def swapped_tensors(data: bytearray, places: GgufPlaces, random: random.Random) -> bytearray:
    one, other = (places.info(name) for name in random.sample(sorted(places.tensors), 2))
    if one.stop - one.start == other.stop - other.start:
        data[one], data[other] = data[other], data[one]
    else:
        data[one.stop - 8 : one.stop] = data[other.stop - 8 : other.stop]
    return data


def twice_the_same(data: bytearray, places: GgufPlaces, random: random.Random) -> bytearray:
    names = list(random.choice((places.tensors, places.values)))
    one = random.choice(names)
    other = random.choice([name for name in names if len(name) == len(one)])
    at = data.index(_string(one)) + 8
    data[at : at + len(one)] = other.encode()
    return data


def another_type(data: bytearray, places: GgufPlaces, random: random.Random) -> bytearray:
    info = places.info(random.choice(list(places.tensors)))
    kind = random.choice([*map(int, GGMLQuantizationType), 99, (1 << 32) - 1])
    struct.pack_into("<I", data, info.stop - 12, kind)
    return data


def another_shape(data: bytearray, places: GgufPlaces, random: random.Random) -> bytearray:
    info = places.info(random.choice(list(places.tensors)))
    struct.pack_into("<Q", data, info.start + 4, random.choice((*LENGTHS, 32, 256)))
    return data


def another_place(data: bytearray, places: GgufPlaces, random: random.Random) -> bytearray:
    info = places.info(random.choice(list(places.tensors)))
    struct.pack_into("<Q", data, info.stop - 8, random.choice((*LENGTHS, 1, 32, 64)))
    return data


def another_value(data: bytearray, places: GgufPlaces, random: random.Random) -> bytearray:
    at = places.values[random.choice(list(places.values))]
    (kind,) = struct.unpack_from("<I", data, at)
    if kind == GGUFValueType.FLOAT32:
        struct.pack_into("<f", data, at + 4, random.choice(FLOATS))
    else:
        struct.pack_into("<I", data, at + 4, random.choice(NUMBERS))
    return data


def another_kind(data: bytearray, places: GgufPlaces, random: random.Random) -> bytearray:
    struct.pack_into("<I", data, places.values[random.choice(list(places.values))], random.randrange(14))
    return data


def many_small_things(data: bytearray, places: GgufPlaces, random: random.Random) -> bytearray:
    """Add an array that would be many times its size as objects."""
    count = min(len(data) // 16, 1 << 20)
    kind, item = random.choice(((GGUFValueType.STRING, _string("ab")), (GGUFValueType.UINT8, b"\0")))
    name = random.choice(("tokenizer.ggml.merges", "tokenizer.ggml.tokens"))
    entry = _string(name) + struct.pack("<IIQ", GGUFValueType.ARRAY, kind, count) + item * count
    filling = _string("x.filling") + struct.pack("<I", GGUFValueType.STRING)
    filling += _string("." * (-(len(entry) + len(filling) + 8) % 32))  # tensors stay where they were
    data[places.values[name] - len(name)] = ord("y")  # the sound array has another name from here on
    data[24:24] = entry + filling
    (entries,) = struct.unpack_from("<Q", data, 16)
    struct.pack_into("<Q", data, 16, entries + 2)
    return data


DAMAGES: tuple[Damage, ...] = (
    *(truncated, changed_bytes, changed_weights, huge_lengths, huge_counts, shifted, swapped_tensors, twice_the_same),
    *(another_type, another_shape, another_place, another_value, another_kind, many_small_things),
)


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()
