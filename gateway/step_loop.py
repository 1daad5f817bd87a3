"""The one loop: plan, run on all ranks, decide, commit. It holds a rank group and outlives it."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterable

from common.errors import Refused, RequestFailed, Unavailable
from common.health import HealthBoard
from common.progress import Progress
from common.telemetry.tracer import OFF, Tracer
from gateway.decision import Decision, Job
from gateway.frames import encode_closes, encode_plan
from gateway.generation import Generation
from gateway.group_keeper import GroupKeeper
from gateway.metrics.gateway_metrics import GatewayMetrics
from gateway.rank_groups import RankGroups
from gateway.scheduling.admission import BatchLimits
from gateway.scheduling.block_pool import BlockPool
from gateway.scheduling.plan import StepPlan
from gateway.scheduling.prefill_pacer import PrefillPacer
from gateway.scheduling.run_ahead import RunAheadPolicy
from gateway.scheduling.scheduler import Scheduler
from gateway.scheduling.sequence import Sequence
from gateway.settings import GatewaySettings
from gateway.shard_group import GroupInfo, ShardGroup
from gateway.speculation.speculator import Speculator
from gateway.step_spans import StepSpans
from gateway.waterfall import RankTimes, StepTimes

# Ranks that trace learn without a next step that a request is over, after so long.
IDLE_PAUSE_S = 0.05
MAX_CRASHES = 3
log = logging.getLogger(__name__)


class StepLoop:
    """Runs every job's sequence, one step after the other. All calls come from the event loop's thread.

    A rank group that is lost, or left for another because it is about to stop, ends no stream: its sequences wait, the
    loop attaches to the next, and what was committed is computed again.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        groups: RankGroups,
        health: HealthBoard,
        speculator: Speculator | None = None,
        metrics: GatewayMetrics | None = None,
        tracer: Tracer = OFF,
    ) -> None:
        self._settings = settings
        self.progress = Progress(settings.step_timeout_s + settings.stall_timeout_s)
        self._health = health
        self._speculator = speculator
        self._metrics = metrics
        self.losses = 0  # of rank groups
        self._traces = tracer.is_on
        self._step_spans = StepSpans(tracer, settings.trace_every_steps)
        self._scheduler: Scheduler | None = None
        self._max_step_tokens = 0  # of the scheduler's plans
        self._work = asyncio.Event()
        self._keeper = GroupKeeper(groups, self._check, self._work.set)
        self._draining = False
        self._jobs: dict[Sequence, Job] = {}
        self._crashes: Counter[Sequence] = Counter()  # lost steps in a row that held the sequence
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def group(self) -> GroupInfo:
        """The attached rank group. Raises Unavailable while there is none."""
        if self._group is None:
            raise Unavailable("the ranks are not ready")
        return self._group.info

    @property
    def scheduler(self) -> Scheduler | None:
        """What plans the steps, None before the first rank group."""
        return self._scheduler

    @property
    def known_group(self) -> GroupInfo | None:
        """The attached rank group, None while there is none."""
        group = self._group
        return group.info if group is not None else None

    @property
    def _group(self) -> ShardGroup | None:
        return self._keeper.group

    @property
    def max_draft_tokens(self) -> int:
        """Most tokens drafted for one pass; 0 where nothing drafts."""
        return self._speculator.max_draft_tokens if self._speculator is not None else 0

    def submit(self, job: Job) -> None:
        """Let a job's sequence wait for its first step.

        Raises Unavailable while draining or without ranks, Overloaded when too much is waiting, InvalidRequest when
        it could never fit.
        """
        if self._draining:
            raise Unavailable("the gateway is shutting down")
        if self._group is None or self._scheduler is None:
            raise Unavailable("the ranks are not ready")
        self._scheduler.add(job.sequence)
        job.waterfall.admitted_ns = time.perf_counter_ns()
        self._jobs[job.sequence] = job
        if self._speculator is not None and isinstance(job, Generation):
            self._speculator.begin(job)
        self._idle.clear()
        self._work.set()

    def cancel(self, job: Job) -> None:
        """Forget a job, finished or not. Its blocks are free once the step that uses them is over."""
        if self._jobs.pop(job.sequence, None) is not None and self._scheduler is not None:
            self._scheduler.cancel(job.sequence)
            if self._metrics is not None:
                self._metrics.requests.ended(job)
        if self._speculator is not None and isinstance(job, Generation):
            self._speculator.end(job)
        if not self._jobs:
            self._idle.set()

    async def drain(self) -> None:
        """Refuse new jobs and return when the running ones are done."""
        self._draining = True
        await self._idle.wait()
        while self._ranks_are_not_told:  # noqa: ASYNC110  # the loop that tells them may be away
            await asyncio.sleep(IDLE_PAUSE_S / 5)

    @property
    def _ranks_are_not_told(self) -> bool:
        """Whether ranks that trace do not know yet that some requests are over."""
        has_closes = self._scheduler is not None and bool(self._scheduler.closes)
        return self._traces and self._group is not None and has_closes

    async def run(self) -> None:
        """Attach, serve, and start over when the group is lost or left; ends only by cancellation."""
        drafting = asyncio.create_task(self._speculator.run()) if self._speculator is not None else None
        try:
            while True:
                group = await self._keeper.acquire()
                self._take(group.info)
                await self._health.set_serving(True)
                watching = asyncio.create_task(self._keeper.watch())
                try:
                    await self._serve(group)
                    log.info("the rank group is about to stop: leaving it")
                except (Unavailable, Refused) as error:
                    self.losses += 1
                    log.error("rank group lost: %s", error)
                finally:
                    watching.cancel()
                    await asyncio.wait([watching])
                self.progress.rest()  # what waits for ranks is no reason to end this process
                left = self._keeper.let_go()
                await self._health.set_serving(self._group is not None)
                await left.close()
        finally:
            if drafting is not None:
                drafting.cancel()
                await asyncio.wait([drafting])
            await self._keeper.close()

    def _check(self, info: GroupInfo) -> None:
        """Raise Refused for a group that cannot run the steps that are planned."""
        if info.max_step_tokens < self._max_step_tokens:
            taken, planned = info.max_step_tokens, self._max_step_tokens
            raise Refused("WRONG_GROUP", f"the ranks take {taken} tokens a step, but {planned} are planned")

    def _take(self, info: GroupInfo) -> None:
        """Fit the scheduler to a new group."""
        if self._scheduler is None:
            self._scheduler = self._make_scheduler(info)
            return
        for misfit in self._scheduler.on_group_lost(BlockPool(info.num_blocks, info.block_size_tokens)):
            self._jobs[misfit].fail(Unavailable("the ranks came back with too small a KV cache"))

    async def _serve(self, group: ShardGroup) -> None:
        """Run steps until the group may be left. Raises Unavailable or Refused when it is lost."""
        scheduler = self._scheduler
        assert scheduler is not None
        while True:
            self.progress.advance()
            self._work.clear()  # what comes from here on is seen at the next turn
            if self._keeper.may_leave(scheduler.idle):
                return
            if self._speculator is not None:
                await self._speculator.propose()
            began_ns = time.perf_counter_ns()
            plan = scheduler.plan()
            if plan is None:
                self.progress.rest()
                await self._rest(group, scheduler)
                continue
            await self._step(group, scheduler, plan, began_ns)

    async def _rest(self, group: ShardGroup, scheduler: Scheduler) -> None:
        """Wait for work. Ranks that trace are told soon who is over; others with the next step."""
        if self._ranks_are_not_told:
            try:
                async with asyncio.timeout(IDLE_PAUSE_S):
                    await self._work.wait()
            except TimeoutError:
                closes = list(scheduler.closes)
                await group.run(encode_closes(closes))
                del scheduler.closes[: len(closes)]
            return
        await self._work.wait()

    async def _step(self, group: ShardGroup, scheduler: Scheduler, plan: StepPlan, began_ns: int) -> None:
        jobs = [self._jobs.get(row.sequence) for row in plan.rows]
        for job in jobs:
            if job is not None:
                job.waterfall.begin_step(began_ns)
        decision = Decision(plan, jobs, group)
        data = encode_plan(plan, decision.lengths)
        sent_ns = time.perf_counter_ns()
        try:
            results = await group.run(data)
        except Unavailable:
            self._blame(jobs)
            raise
        self._crashes.clear()
        answered_ns = time.perf_counter_ns()
        outcomes = await decision.decide(results)
        for failed in decision.failed:
            scheduler.fail(failed.sequence)
        scheduler.commit(plan, outcomes)
        times = StepTimes(
            plan_ns=sent_ns - began_ns,
            round_trip_ns=answered_ns - sent_ns,
            ranks=tuple(RankTimes(r.queue_ns, r.compute_ns, r.collective_ns, r.encode_ns, r.ahead_ns) for r in results),
        )
        decided_ns = time.perf_counter_ns()
        hop_ns = times.plan_ns + times.wire_ns + decided_ns - answered_ns
        step_s = times.work_ns * 1e-9 / plan.passes
        scheduler.pacer.observe(plan.decode_tokens, plan.prefill_tokens, times.wire_ns * 1e-9 / plan.passes + step_s)
        if not plan.prefill_tokens:
            scheduler.run_ahead.observe(hop_ns * 1e-9, step_s, len(plan.rows))
        if self._speculator is not None:
            self._speculator.observe(plan, jobs, outcomes, times)
        if self._metrics is not None:
            self._metrics.steps.ran(plan, jobs, times, decided_ns - answered_ns)
        for job in jobs:
            if job is not None:
                job.waterfall.add_step(times, decided_ns - answered_ns, plan.passes)
        self._step_spans.observe(plan, jobs, times, began_ns, decided_ns - answered_ns)

    def _blame(self, jobs: Iterable[Job | None]) -> None:
        """Fail the requests that were in every one of the last lost steps: one of them may be what kills the ranks."""
        for job in jobs:
            if job is None:
                continue
            self._crashes[job.sequence] += 1
            if self._crashes[job.sequence] >= MAX_CRASHES:
                job.fail(RequestFailed(f"the ranks were lost {MAX_CRASHES} times in a row while computing it"))
                self.cancel(job)

    def _make_scheduler(self, info: GroupInfo) -> Scheduler:
        settings = self._settings
        max_step_tokens = self._max_step_tokens = min(settings.max_step_tokens, info.max_step_tokens)
        return Scheduler(
            BlockPool(info.num_blocks, info.block_size_tokens),
            PrefillPacer(settings.decode_slowdown_limit, max_step_tokens),
            BatchLimits(
                max_running=min(settings.max_running, max_step_tokens),
                max_step_tokens=max_step_tokens,
                max_prefill_chunk_tokens=settings.max_prefill_chunk_tokens,
                max_queued_requests=settings.max_queued_requests,
                max_queued_tokens=settings.max_queued_tokens,
            ),
            prefix_reuse=settings.prefix_reuse,
            run_ahead=RunAheadPolicy(settings.run_ahead, settings.max_tokens_per_frame, settings.max_frame_ms * 1e-3),
        )
