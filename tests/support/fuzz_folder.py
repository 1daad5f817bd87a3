"""Damage to hub folders: their JSON, their headers, their files. Each function changes one folder in place."""

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

INDEX = "model.safetensors.index.json"
NUMBERS = (0, -1, 1, 3, 4096, 1 << 31, 1 << 40, 1 << 63, 1 << 64, 10**400, 1.5, 1e308, float("nan"), float("inf"))
VALUES: tuple[Any, ...] = (*NUMBERS, None, True, "x", "", [], {}, [[]], {"a": {}}, ["x"] * 3, [1, 2], {"type": 1})
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "", "f32", 5, None)
ELSEWHERE: tuple[Any, ...] = (
    *("../model.safetensors", "/etc/passwd", "a/../b.safetensors", "", ".", "..", "model\0.safetensors"),
    *("config.json", "x" * 5000 + ".safetensors", "absent.safetensors", "./model.safetensors", "\ud800.safetensors"),
    *(None, 5, [], {}),
)

Damage = Callable[[Path, random.Random], None]


def truncated(folder: Path, random: random.Random) -> None:
    path = random.choice(_files(folder))
    path.write_bytes(path.read_bytes()[: random.randrange(path.stat().st_size)])


def changed_bytes(folder: Path, random: random.Random) -> None:
    path = random.choice(_files(folder))
    data = bytearray(path.read_bytes())
    for _ in range(random.choice((1, 2, 8))):
        data[random.randrange(min(len(data), 20_000))] = random.randrange(256)
    path.write_bytes(data)


def header_length(folder: Path, random: random.Random) -> None:
    path = random.choice(_weights(folder))
    data = bytearray(path.read_bytes())
    lengths = (0, 1, 7, len(data), len(data) - 8, 4 << 20, 100 << 20, 1 << 32, 1 << 63, (1 << 64) - 1)
    struct.pack_into("<Q", data, 0, random.choice(lengths))
    path.write_bytes(data)


def header_entry(folder: Path, random: random.Random) -> None:
    """Change a tensor's type, shape or place, or what names it."""
    path = random.choice(_weights(folder))
    header, data = _split(path)
    name, other = random.sample([name for name in header if name != "__metadata__"], 2)
    entry = header[name]
    match random.randrange(8):
        case 0:
            entry["dtype"] = random.choice(DTYPES)
        case 1:
            entry["shape"] = random.choice((entry["shape"][::-1], [1 << 62, 4], [-1, -1], [], [0], ["x"], None, [1.0]))
        case 2:
            entry["data_offsets"][random.randrange(2)] = random.choice(NUMBERS)
        case 3:
            entry["data_offsets"] = header[other]["data_offsets"]
        case 4:
            header[name], header[other] = header[other], header[name]
        case 5:
            header[random.choice(("x", "", "lm_head.weight", "../x", "\ud800"))] = header.pop(name)
        case 6:
            header[name] = random.choice(VALUES)
        case 7:
            del header[name]
    _join(path, json.dumps(header).encode(), data)


def header_twice(folder: Path, random: random.Random) -> None:
    path = random.choice(_weights(folder))
    header, data = _split(path)
    name = random.choice(list(header))
    again = json.dumps(name) + ":" + json.dumps(header[name]) + ","
    _join(path, json.dumps(header).encode().replace(b"{", b"{" + again.encode(), 1), data)


def header_dense(folder: Path, random: random.Random) -> None:
    """A header that would be many times its size as objects."""
    path = random.choice(_weights(folder))
    _, data = _split(path)
    filling = random.choice((b"0,", b"[],", b"{},", b'"a",', b"[", b'{"a":'))
    _join(path, b'{"a":[' + filling * (min(len(data), 4 << 20) // len(filling) - 8) + b"0]}", data)


def index_file(folder: Path, random: random.Random) -> None:
    index = json.loads((folder / INDEX).read_text())
    placed = index["weight_map"]
    name = random.choice(list(placed))
    match random.randrange(5):
        case 0:
            placed[name] = random.choice(ELSEWHERE)
        case 1:
            placed |= dict.fromkeys(placed, random.choice(ELSEWHERE))
        case 2:
            del placed[name]
        case 3:
            placed[random.choice(("x", ""))] = placed[name]
        case 4:
            index["weight_map"] = random.choice(VALUES)
    (folder / INDEX).write_text(json.dumps(index))


def json_value(folder: Path, random: random.Random) -> None:
    """Change, add or drop a value of a JSON file, at any depth."""
    path = random.choice([path for path in _files(folder) if path.suffix == ".json" and path.name != INDEX])
    fields = inner = json.loads(path.read_text())
    if path.name == "config.json" and random.random() < 0.3 and "quantization_config" in fields:
        inner = fields["quantization_config"]
    while True:
        key = random.choice(list(inner))
        if not isinstance(inner[key], dict) or not inner[key] or random.random() < 0.3:
            break
        inner = inner[key]
    if random.random() < 0.1:
        del inner[key]
    else:
        inner[random.choice((key, key, key, "unknown"))] = random.choice(VALUES)
    path.write_text(json.dumps(fields))


def swapped_files(folder: Path, random: random.Random) -> None:
    one, other = random.sample(_files(folder), 2)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def missing_file(folder: Path, random: random.Random) -> None:
    path = random.choice(_files(folder))
    path.unlink()
    if random.random() < 0.5:
        path.mkdir()


DAMAGES: tuple[Damage, ...] = (
    *(truncated, changed_bytes, header_length, header_entry, header_entry, header_twice, header_dense, index_file),
    *(json_value, json_value, swapped_files, missing_file),
)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _split(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _join(path: Path, header: bytes, data: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
