"""One draft worker's address: attach to whatever serves there, for as long as it does, and then again, for ever."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from common.channel import INTERNAL_MESSAGE_BYTES, open_channel
from common.errors import Refused, Unavailable
from common.tls import ClientTls
from gateway.speculation.breaker import Breaker
from gateway.speculation.draft_stream import DraftStream, TargetIdentity
from tandem.draft.v1 import draft_service_pb2 as pb

PROPOSE = "/tandem.draft.v1.DraftService/Propose"
ATTACH_TIMEOUT_S = 5.0
# Between attempts: doubling while the worker is absent, slow where it is there and does not fit.
MIN_PAUSE_S = 0.1
MAX_PAUSE_S = 0.5
REFUSED_PAUSE_S = 10.0
# A stream that lasted so long was no accident: the next attempt is made soon.
STEADY_S = 5.0

log = logging.getLogger(__name__)


class DraftLink:
    """Keeps one stream attached. Each new reason not to is logged once, until the worker is there again."""

    def __init__(
        self,
        address: str,
        target: TargetIdentity,
        on_proposals: Callable[[DraftStream, Iterable[pb.Proposal]], None],
        on_end: Callable[[DraftStream], None],
        tls: ClientTls | None = None,
    ) -> None:
        self.address = address
        self.stream: DraftStream | None = None  # None while nothing fit to draft is attached
        self._target, self._tls = target, tls
        self._breaker = Breaker()  # outlives streams: a worker that is lost and found is not yet a fast one
        self._on_proposals, self._on_end = on_proposals, on_end
        self._told = set[str]()
        self._was_there = self._was_ever_there = False

    @property
    def state(self) -> str:
        """How the worker stands: one of the pool's WORKER_STATES."""
        stream = self.stream
        if stream is None or stream.ended:
            return "missing"
        if stream.is_draining:
            return "draining"
        return "resting" if self._breaker.is_open else "ready"

    async def run(self) -> None:
        """Attach again and again; ends only by cancellation."""
        pause_s = MIN_PAUSE_S
        while True:
            began_s = time.monotonic()
            try:
                await self._attend()
            except Refused as error:
                self._tell(error.reason, logging.WARNING, f"draft worker {self.address} cannot be used: {error}")
                await asyncio.sleep(REFUSED_PAUSE_S)
            except Unavailable as error:
                # One that was never there may still be loading its model.
                level = logging.WARNING if self._was_ever_there else logging.INFO
                self._tell("missing", level, f"draft worker {self.address} is missing: {error}")
                if self._was_there and time.monotonic() - began_s >= STEADY_S:
                    pause_s = MIN_PAUSE_S
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)

    async def _attend(self) -> None:
        """Attach once and stay until the stream ends. Raises Refused or Unavailable."""
        self._was_there = False
        channel = open_channel(self.address, INTERNAL_MESSAGE_BYTES, tls=self._tls)
        try:
            call: Any = channel.stream_stream(PROPOSE, request_serializer=pb.ProposeRequest.SerializeToString)()
            try:
                async with asyncio.timeout(ATTACH_TIMEOUT_S):
                    stream = await DraftStream.attach(call, self._target, self._breaker)
            except TimeoutError:
                raise Unavailable(f"no answer within {ATTACH_TIMEOUT_S:g} s") from None
            self.stream, self._was_there, self._was_ever_there = stream, True, True
            self._breaker.revive(time.perf_counter_ns())
            self._told.clear()
            log.info("draft worker %s is there: %s", self.address, stream.source)
            try:
                await stream.run(self._on_proposals)
            finally:
                self.stream = None
                self._on_end(stream)
        finally:
            await channel.close()

    def _tell(self, kind: str, level: int, line: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            log.log(level, "%s", line)
