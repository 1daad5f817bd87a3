"""Typed look-ups in a GGUF file's metadata, which remember what was asked for."""

from typing import TypeVar, overload

from common.errors import CheckpointError
from shard_worker.checkpoint.gguf_file import GgufArray, Scalar, Value

T = TypeVar("T", bound=Scalar)


class GgufMetadata:
    """The metadata of one file. A key that nobody asks for may change the maths: see `refuse_unknown`."""

    def __init__(self, entries: dict[str, Value]) -> None:
        self._entries = entries
        self._known: set[str] = set()

    @overload
    def get(self, key: str, kind: type[T]) -> T | None: ...
    @overload
    def get(self, key: str, kind: type[T], default: T) -> T: ...
    def get(self, key: str, kind: type[T], default: T | None = None) -> T | None:
        """Return the entry, or `default`. Raises CheckpointError when it has another type."""
        self._known.add(key)
        value = self._entries.get(key, default)
        if isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
            return value
        if value is None:
            return None
        found = "an array" if isinstance(value, GgufArray) else type(value).__name__
        raise CheckpointError(f"GGUF key {key} is {found}, not {kind.__name__}")

    def require(self, key: str, kind: type[T]) -> T:
        """Return the entry. Raises CheckpointError when it is missing or has another type."""
        value = self.get(key, kind)
        if value is None:
            raise CheckpointError(f"GGUF key {key} is missing")
        return value

    def array(self, key: str, kind: type[T], length: int | None = None, at_most: int | None = None) -> list[T]:
        """Return the array, of `length` or `at_most` so many if given.

        Raises CheckpointError when it is not there or not that, before any of its objects is made.
        """
        self._known.add(key)
        value = self._entries.get(key)
        if not isinstance(value, GgufArray):
            raise CheckpointError(f"GGUF key {key} is {'missing' if value is None else 'not an array'}")
        if length not in (None, value.length):
            raise CheckpointError(f"GGUF key {key} is not an array of {length} {kind.__name__}")
        if at_most is not None and value.length > at_most:
            raise CheckpointError(f"GGUF key {key} is an array of {value.length}, more than {at_most}")
        items = value.items()
        wanted: list[T] = [
            item for item in items if isinstance(item, kind) and isinstance(item, bool) == (kind is bool)
        ]
        if len(wanted) != len(items):
            raise CheckpointError(f"GGUF key {key} is not an array of {length or 'some'} {kind.__name__}")
        return wanted

    def is_array(self, key: str) -> bool:
        """Return whether the entry is there and an array."""
        return isinstance(self._entries.get(key), GgufArray)

    def refuse_unknown(self, prefix: str, harmless: tuple[str, ...] = ()) -> None:
        """Raise CheckpointError for entries under `prefix` not asked for, save those ending in `harmless`."""
        unknown = {key for key in self._entries.keys() - self._known if key.startswith(prefix)}
        if unknown := {key for key in unknown if not key.endswith(harmless)}:
            raise CheckpointError(f"GGUF keys that are not supported: {', '.join(sorted(unknown))}")
