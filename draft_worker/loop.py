"""The one thread that drafts: it takes what came in, lets the proposer work a little, and hands out answers."""

import queue
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from math import exp

from common.progress import Progress
from draft_worker.desk import Answer, Desk
from draft_worker.proposer import Proposer
from tandem.draft.v1 import draft_service_pb2 as pb

Job = Callable[[Desk], list[Answer]]
Deliver = Callable[[list[Answer], pb.Load], None]

# Busy time is averaged over about so long.
BUSY_WINDOW_NS = 1e9
# How long a thread that is told to stop may take before it counts as hanging.
STOP_GRACE_S = 5.0


class DraftLoop:
    """Runs a proposer behind a desk. Jobs are posted from any thread; `deliver` is called on the loop's own."""

    def __init__(self, deliver: Deliver, on_failure: Callable[[BaseException], None], progress: Progress) -> None:
        self._deliver, self._on_failure, self._progress = deliver, on_failure, progress
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="draft")
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._busy_fraction = 0.0
        self._noted_ns = time.perf_counter_ns()

    def start(self, make: Callable[[], tuple[Desk, Proposer]], on_ready: Callable[[Proposer], None]) -> None:
        """Make desk and proposer on the thread, tell that they are there, then serve jobs until `stop`."""
        self._thread.submit(self._run, make, on_ready)

    def post(self, job: Job) -> None:
        """Have a job run between two steps."""
        self._inbox.put(job)

    def stop(self) -> bool:
        """End the thread after its step; return False when it does not answer."""
        self._inbox.put(None)
        answered, _ = wait([self._thread.submit(lambda: None)], timeout=STOP_GRACE_S)
        self._thread.shutdown(wait=False)
        return bool(answered)

    def _run(self, make: Callable[[], tuple[Desk, Proposer]], on_ready: Callable[[Proposer], None]) -> None:
        try:
            desk, proposer = make()
            on_ready(proposer)
            self._serve(desk, proposer)
        except BaseException as error:
            self._on_failure(error)

    def _serve(self, desk: Desk, proposer: Proposer) -> None:
        can_work = False
        while True:
            if not can_work:
                self._progress.rest()
            jobs = self._taken(wait_for_one=not can_work)
            self._progress.advance()
            self._note_time(busy=False)
            answers: list[Answer] = []
            for job in jobs:
                if job is None:
                    return
                answers += job(desk)
            busy = proposer.waiting > 0
            drafts = proposer.work()
            can_work = drafts is not None
            answers += desk.answers(drafts or [])
            self._note_time(busy)
            if answers:
                self._deliver(answers, self._load(desk, proposer))

    def _taken(self, wait_for_one: bool) -> list[Job | None]:
        """Return all that is in the inbox now, at least one job if waited for."""
        jobs = [self._inbox.get()] if wait_for_one else []
        while True:
            try:
                jobs.append(self._inbox.get_nowait())
            except queue.Empty:
                return jobs

    def _note_time(self, busy: bool) -> None:
        """Average the share of time spent on asks: the time since the last note counts as busy or not."""
        now_ns = time.perf_counter_ns()
        weight = 1 - exp((self._noted_ns - now_ns) / BUSY_WINDOW_NS)
        self._busy_fraction += weight * (busy - self._busy_fraction)
        self._noted_ns = now_ns

    def _load(self, desk: Desk, proposer: Proposer) -> pb.Load:
        usage = proposer.usage
        return pb.Load(
            open_requests=len(desk),
            waiting=proposer.waiting,
            unread_tokens=usage.unread_tokens,
            kv_cache_used_tokens=usage.kv_cache_used_tokens,
            step_ns=usage.step_ns,
            busy_fraction=self._busy_fraction,
            draining=desk.draining,
        )
