"""Which draft worker drafts for which request, and is its answer there? Nothing here can change a token."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable

from common.draft_protocol import HASHED_IDS
from common.errors import Refused
from common.telemetry.metrics import STEP_BOUNDS_S, Histogram
from common.tls import ClientTls
from gateway.discovery.endpoint import Endpoint
from gateway.speculation.draft_link import DraftLink
from gateway.speculation.draft_request import Ask, DraftRequest
from gateway.speculation.draft_stream import DraftStream, TargetIdentity
from gateway.speculation.drafted import Drafted, read_drafted
from tandem.draft.v1 import draft_service_pb2 as pb

# Outcomes by which a worker says that it does not hold what it was told.
FORGOTTEN = (pb.OUTCOME_UNKNOWN, pb.OUTCOME_GAP, pb.OUTCOME_STALE)

WORKER_STATES = ("ready", "resting", "draining", "missing")


class _Waiter:
    """Somebody waits until none of these requests awaits an answer, or for so long."""

    def __init__(self, awaiting: set[DraftRequest]) -> None:
        self.awaiting = awaiting
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def strike(self, request: DraftRequest) -> None:
        """This request awaits no more."""
        self.awaiting.discard(request)
        if not self.awaiting:
            self.end()

    def end(self) -> None:
        """Wait no longer."""
        if not self.done.done():
            self.done.set_result(None)


class DraftPool:
    """All draft workers, and the requests they draft for. All calls come from one event loop; only `wait` waits.

    Health never shows in the output: whoever is slow, wrong or gone yields no proposals.
    """

    def __init__(self, addresses: Iterable[str], target: TargetIdentity, tls: ClientTls | None = None) -> None:
        self._target, self._tls = target, tls
        self.wire = Histogram(STEP_BOUNDS_S)  # seconds between ask and answer less the worker's own
        self._links: dict[str, DraftLink] = {}
        self._links_changed = asyncio.Event()
        self._requests: dict[int, DraftRequest] = {}
        self._waiters: set[_Waiter] = set()
        self.set_addresses(addresses)

    @property
    def num_ready(self) -> int:
        """Workers that are attached and take commits."""
        return len(self._streams())

    def states(self) -> Counter[str]:
        """Return how many workers are in each of WORKER_STATES. May be called from any thread."""
        return Counter(link.state for link in list(self._links.values()))

    def set_addresses(self, addresses: Iterable[str]) -> None:
        """Have these workers from now on. Those that stay keep their streams; requests of others move at their next
        ask."""
        old = self._links
        self._links = {
            address: old.get(address) or DraftLink(address, self._target, self._take_proposals, self._lose, self._tls)
            for address in dict.fromkeys(addresses)
        }
        self._links_changed.set()

    def set_endpoints(self, endpoints: Iterable[Endpoint]) -> None:
        """Have the workers among these that take work."""
        self.set_addresses(endpoint.address for endpoint in endpoints if endpoint.takes_work)

    async def run(self) -> None:
        """Keep the workers attached; ends only by cancellation, and leaves nothing behind."""
        tasks: dict[DraftLink, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                self._links_changed.clear()
                links = set(self._links.values())
                for link in tasks.keys() - links:
                    tasks.pop(link).cancel()
                for link in links - tasks.keys():
                    tasks[link] = group.create_task(link.run(), name=f"draft link to {link.address}")
                await self._links_changed.wait()

    def ask(self, request: DraftRequest, count: int, deadline_s: float) -> bool:
        """Tell a worker what was committed since the last ask, and ask it for `count` tokens, worth something for
        `deadline_s` from now. False where no worker can be asked.

        An answer still awaited is given up. With a `count` of 0 none is awaited, and the worker just reads on.
        """
        known = self._requests.setdefault(request.number, request)
        assert known is request, "two requests of one number"
        now_ns = time.perf_counter_ns()
        if request.ask is not None:
            self._settle(request, False if now_ns >= request.ask.due_ns else None)
        request.drafted = None
        stream = self._choose(request, now_ns)
        if stream is None:
            return False
        self._house(request, stream)
        opens = [] if request.is_open else [request.opening()]
        if not stream.tell(opens=opens, commits=[request.commitment(count, deadline_s)]):
            request.is_open = False
            return False
        if count:
            due_ns = now_ns + int(deadline_s * 1e9)
            request.ask = Ask(stream, len(request.token_ids), count, now_ns, due_ns)
            stream.num_awaited += 1
            stream.breaker.ask(now_ns)
        return True

    def take(self, request: DraftRequest) -> Drafted | None:
        """Return the proposal that continues exactly the committed ids, once; None where there is none."""
        drafted, request.drafted = request.drafted, None
        if drafted is None or drafted.base_length != len(request.token_ids):
            return None
        return drafted

    async def wait(self, requests: Iterable[DraftRequest], deadline_s: float) -> None:
        """Return once each of `requests` that was asked is answered, or after `deadline_s`.

        What is not answered by then is a miss of its worker, and its late answer will be ignored.
        """
        waiter = _Waiter({request for request in requests if request.ask is not None})
        if not waiter.awaiting:
            return
        self._waiters.add(waiter)
        timer = asyncio.get_running_loop().call_later(deadline_s, waiter.end)
        try:
            await waiter.done
        finally:
            timer.cancel()
            self._waiters.discard(waiter)
        for request in list(waiter.awaiting):
            self._settle(request, hit=False)

    def close(self, request: DraftRequest) -> None:
        """Forget a request, here and at its worker."""
        if self._requests.pop(request.number, None) is not None:
            if request.ask is not None:
                self._settle(request, hit=None)
            request.drafted = None
            self._house(request, None)

    def _streams(self) -> list[DraftStream]:
        streams = (link.stream for link in self._links.values())
        return [stream for stream in streams if stream is not None and stream.is_usable]

    def _choose(self, request: DraftRequest, now_ns: int) -> DraftStream | None:
        """Return the request's own worker where it can be asked, else the least loaded."""
        able = [
            stream
            for stream in self._streams()
            if (stream is request.stream or stream.num_requests < stream.info.max_requests)
            and stream not in request.full_at
            and len(request.token_ids) < stream.info.context_length
            and stream.breaker.allows(now_ns)
        ]
        if request.stream in able:
            return request.stream
        return min(able, key=lambda stream: stream.busyness, default=None)

    def _house(self, request: DraftRequest, stream: DraftStream | None) -> None:
        """Make `stream` the request's home; the old one may forget it."""
        old = request.stream
        if stream is old:
            return
        if old is not None:
            old.num_requests -= 1
            old.tell(closes=[request.closing()])
        if stream is not None:
            stream.num_requests += 1
        request.stream, request.is_open, request.was_forgotten = stream, False, False

    def _take_proposals(self, stream: DraftStream, proposals: Iterable[pb.Proposal]) -> None:
        """Take those that are awaited; what is late, repeated or of another time or worker is nobody's."""
        for proposal in proposals:
            request = self._requests.get(proposal.request)
            if (
                request is not None
                and request.ask is not None
                and request.ask.stream is stream
                and (proposal.epoch, proposal.round) == (request.epoch, request.round)
            ):
                self._settle(request, self._take_answer(request, request.ask, proposal))

    def _take_answer(self, request: DraftRequest, ask: Ask, proposal: pb.Proposal) -> bool:
        """Take what an ask was answered; False where that counts as a miss."""
        if proposal.outcome == pb.OUTCOME_PROPOSED:
            asked_ids = request.token_ids[max(0, ask.base_length - HASHED_IDS) : ask.base_length]
            waited_ns = time.perf_counter_ns() - ask.asked_ns
            self.wire.observe(max(0, waited_ns - proposal.queue_ns - proposal.compute_ns) * 1e-9)
            vocabulary_size, source = self._target.vocabulary_size, ask.stream.source
            try:
                request.drafted = read_drafted(
                    proposal, asked_ids, ask.base_length, ask.num_wanted, vocabulary_size, waited_ns, source
                )
            except Refused:
                return False
            request.was_forgotten = False
            return True
        if proposal.outcome in FORGOTTEN:
            if proposal.outcome == pb.OUTCOME_GAP and proposal.known_length < request.num_sent:
                request.num_sent = proposal.known_length
            else:
                request.is_open = False
            # A worker with much to remember may forget; one that forgets what it was just told anew is of no use.
            was_forgotten, request.was_forgotten = request.was_forgotten, True
            return not was_forgotten
        if proposal.outcome == pb.OUTCOME_FULL:
            request.full_at.add(ask.stream)
        elif proposal.outcome == pb.OUTCOME_DRAINING:
            ask.stream.is_draining = True
        else:  # late, or no outcome at all
            return False
        return True

    def _settle(self, request: DraftRequest, hit: bool | None) -> None:
        """End a request's awaiting: answered, missed, or neither (None)."""
        ask, request.ask = request.ask, None
        assert ask is not None
        ask.stream.num_awaited -= 1
        if hit is not None:
            ask.stream.breaker.record(hit, ask.asked_ns, time.perf_counter_ns())
        for waiter in list(self._waiters):
            waiter.strike(request)

    def _lose(self, stream: DraftStream) -> None:
        """A stream has ended: nobody need wait for its answers."""
        for request in self._requests.values():
            if request.ask is not None and request.ask.stream is stream:
                self._settle(request, hit=False)
