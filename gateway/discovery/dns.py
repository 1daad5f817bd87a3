"""Which addresses does a name have now? A headless Service's name has one for each pod that is ready."""

import asyncio
import logging
import socket
import threading
from contextlib import suppress

from gateway.discovery.endpoint import Endpoint, Endpoints, OnChange

POLL_S = 1.0
ANSWER_TIMEOUT_S = 5.0
# The name is known, or known not to be, but has no address: nobody serves there.
NO_ADDRESS = (socket.EAI_NONAME, socket.EAI_NODATA)

log = logging.getLogger(__name__)


class DnsSource:
    """Polls one name. What the DNS does not list takes no work; answers may be as old as the DNS's caches allow."""

    def __init__(self, name: str, port: int, poll_s: float = POLL_S) -> None:
        self._name, self._port, self._poll_s = name, port, poll_s

    async def run(self, on_change: OnChange) -> None:
        """Tell the addresses that are listed; a DNS that does not answer changes nothing."""
        told: Endpoints | None = None
        failing = False
        while True:
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    found = tuple(Endpoint(address) for address in await _addresses(self._name, self._port))
            except (OSError, TimeoutError) as error:
                if not failing:
                    log.warning("the DNS cannot be asked for %s: %s", self._name, error or "no answer in time")
                failing = True
            else:
                failing = False
                if found != told:
                    told = found
                    on_change(found)
            await asyncio.sleep(self._poll_s)


async def _addresses(name: str, port: int) -> list[str]:
    """Return host:port of each address, sorted; raises OSError where nobody knows.

    On a thread that nobody joins: the event loop's own would hold up the process's end for as long as the DNS is mute.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def settle(result: list[str] | OSError) -> None:
        if answer.done():
            return
        if isinstance(result, OSError):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    def ask() -> None:
        result = _look_up(name, port)
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result)

    threading.Thread(target=ask, name=f"dns {name}", daemon=True).start()
    return await answer


def _look_up(name: str, port: int) -> list[str] | OSError:
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        return [] if error.errno in NO_ADDRESS else error
    except (OSError, UnicodeError) as error:
        return OSError(str(error))
    by_family: dict[int, set[str]] = {}
    for family, _, _, _, place in found:
        by_family.setdefault(family, set()).add(str(place[0]))
    # A worker with addresses of both families is one worker.
    if hosts := by_family.get(socket.AF_INET):
        return sorted(f"{host}:{port}" for host in hosts)
    return sorted(f"[{host}]:{port}" for host in by_family.get(socket.AF_INET6, ()))
