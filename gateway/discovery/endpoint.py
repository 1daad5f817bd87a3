"""One place where a worker serves, as a source of discovery knows it"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """`takes_work` is False while it is not ready yet, and once it is about to end: it gets no new work then."""

    address: str  # host:port, or unix:/path in static lists
    name: str = ""  # the pod's, where it is known
    takes_work: bool = True


Endpoints = tuple[Endpoint, ...]
OnChange = Callable[[Endpoints], None]


class Source(Protocol):
    """Knows the endpoints of one target."""

    async def run(self, on_change: OnChange) -> None:
        """Tell all endpoints, at once and after each change; ends only by cancellation.

        While the source cannot be asked, what was told last holds.
        """
        ...
