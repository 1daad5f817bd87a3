"""The drafts of the next step: how many tokens for whom, asked of whom, and what is taken when time is up.

Drafts change speed alone: whatever comes, or does not, the target draws its own tokens and a draft must match them.
"""

import logging
import time
from array import array
from collections.abc import Iterable
from functools import partial

from common.telemetry.metrics import STEP_BOUNDS_S, Histogram
from gateway.generation import Generation
from gateway.scheduling.plan import Outcome, StepPlan
from gateway.scheduling.sequence import State
from gateway.speculation.acceptance import Acceptance
from gateway.speculation.draft_pool import DraftPool
from gateway.speculation.drafter import SOURCES, Drafter
from gateway.speculation.length_control import REST_ROWS, LengthControl
from gateway.speculation.record import SpeculationRecord
from gateway.speculation.step_costs import DraftCosts, StepCosts
from gateway.speculation.turn_overhead import TurnOverhead
from gateway.speculation.worker_use import WorkerUse
from gateway.waterfall import StepTimes

log = logging.getLogger(__name__)

_FIXED_DEADLINE_S = 1.0  # for drafts that are waited for although they do not pay


class Speculator:
    """Speculation for all requests of a step loop. All calls come from the event loop; only `propose` waits."""

    def __init__(self, pool: DraftPool | None, reads_text: bool, max_draft_tokens: int, fixed: bool = False) -> None:
        """Without a pool, drafts come from the requests' own text alone, and only where `reads_text`.

        `fixed` drafts as many tokens as may be drafted and waits for them, whether that pays or not.
        """
        self.max_draft_tokens = max_draft_tokens
        self.totals = {"worker": SpeculationRecord(), "ngram": SpeculationRecord()}  # of all requests, by source
        self.waits = Histogram(STEP_BOUNDS_S)  # seconds that steps were held up
        self.pool = pool
        self._reads_text = reads_text
        self._fixed = fixed
        self._costs = StepCosts()
        self._draft_costs = DraftCosts(self._costs)
        self._control = LengthControl(self._costs, self._draft_costs, max_draft_tokens, fixed)
        self._priors = {source: Acceptance() for source in SOURCES}
        self._drafters: dict[Generation, Drafter] = {}
        self._overhead = TurnOverhead()
        self._turn_began_ns = 0  # what the turn waits for drafts is not of it
        self._passes = 1  # of the last turn
        self._worker_use = WorkerUse()

    async def run(self) -> None:
        """Keep the draft workers attached; ends only by cancellation."""
        if self.pool is not None:
            try:
                await self.pool.run()
            except Exception:
                log.exception("draft workers are no longer asked")

    def begin(self, job: Generation) -> None:
        """A request was submitted."""
        if job.speculation is None:
            return
        job.sequence.drafts_any_time = self._reads_text
        self._drafters[job] = Drafter.of(job, job.speculation, self._priors)

    def end(self, job: Generation) -> None:
        """A request is over."""
        drafter = self._drafters.pop(job, None)
        if drafter is not None and self.pool is not None:
            self.pool.close(drafter.request)

    async def propose(self) -> None:
        """Give every decoding sequence its draft for the next step; waits for workers as long as that pays."""
        self._turn_began_ns = time.perf_counter_ns()
        self._open_prompts()
        drafters = [drafter for drafter in self._drafters.values() if _decodes(drafter.job)]
        if not drafters:
            return
        num_others = len(self._drafters) - len(drafters)
        if self._control.rests_on(len(self._drafters)):
            self._worker_use.rest(len(self._drafters))
            for drafter in drafters:
                sequence = drafter.job.sequence
                sequence.draft_ids, sequence.speculates, sequence.drafts_any_time = array("i"), False, False
            return
        has_worker = self.pool is not None and self.pool.num_ready > 0
        is_crowded = len(self._drafters) >= REST_ROWS and not self._worker_use.pays(len(self._drafters))
        goodput = partial(self._control.goodput, num_rows=len(drafters), overhead=self._overhead)
        rows = [drafter.row(has_worker, self._reads_text, is_crowded, goodput) for drafter in drafters]
        lengths = self._control.next_lengths(
            [drafter.length for drafter in drafters], rows, self._overhead, num_others, self._passes
        )
        drafting = {drafter: length for drafter, length in zip(drafters, lengths, strict=True) if length}
        # A row that was run ahead is as good as computed: drafts behind it would have it computed again.
        wanted = {drafter: length for drafter, length in drafting.items() if not drafter.ran_ahead}
        asked = {drafter: length for drafter, length in wanted.items() if drafter.asked_source == "worker"}
        if waiting := sum(row.waits and row.cap > 0 for row in rows):
            self._worker_use.observe(len(self._drafters), sum(not d.length.is_probing for d in asked) / waiting)
        for drafter in drafters:
            if drafter.length.tells and self.pool is not None:
                drafter.announced = True
                self.pool.ask(drafter.request, 0, 0.0)
        if asked:
            await self._ask(asked)
        for drafter in drafters:
            sequence = drafter.job.sequence
            sequence.draft_ids = self._taken(drafter, wanted.get(drafter, 0))
            sequence.speculates = drafter in drafting
            sequence.drafts_any_time = self._reads_text and not self._control.is_resting

    def observe(self, plan: StepPlan, jobs: Iterable[object], outcomes: Iterable[Outcome], times: StepTimes) -> None:
        """Learn from a step: its rows' jobs, the outcomes of its sampled rows, and how long it took."""
        ran_ahead = plan.run_ahead or (False,) * len(plan.rows)
        remaining = iter(outcomes)
        for row, job, goes_on in zip(plan.rows, jobs, ran_ahead, strict=True):
            drafter = self._drafters.get(job) if isinstance(job, Generation) else None
            outcome = next(remaining) if row.sampled else None
            if drafter is None or outcome is None:
                continue
            drawn, draft_ids = outcome.token_ids, row.draft_ids
            # Where the stream ended within the draft, nothing is known of what lay beyond.
            drafted = min(len(draft_ids), len(drawn)) if outcome.finished else len(draft_ids)
            accepted = sum(1 for draft_id, token_id in zip(draft_ids, drawn, strict=False) if draft_id == token_id)
            total = self.totals["worker" if drafter.source == "worker" else "ngram"]
            # Of a continued row each token had a pass of its own.
            for tokens in (1,) * len(drawn) if row.continued else (len(drawn),):
                drafter.verified(drafted, min(accepted, drafted), tokens)
                total.verified(drafted, min(accepted, drafted), tokens, by_ngram=False)
            if drafted:
                drafter.compare(drawn)
            drafter.ran_ahead = goes_on
        self._passes = plan.passes
        if not plan.prefill_tokens:
            turn_s = (time.perf_counter_ns() - self._turn_began_ns) * 1e-9
            if (pass_s := self._costs.predict(plan.decode_tokens)) is not None:
                self._overhead.observe(self._control.is_resting, turn_s, plan.passes, pass_s)
            self._costs.observe(plan.decode_tokens, times.work_ns * 1e-9 / plan.passes)

    def _open_prompts(self) -> None:
        """Have a worker begin to read the prompts of new requests, where so many at once are drafted for.

        Not as they arrive: of many that arrive together the first would each look like the only one.
        """
        if self.pool is None or not self._worker_use.pays(len(self._drafters)):
            return
        for drafter in self._drafters.values():
            if not drafter.announced and drafter.job.max_draft_tokens > 0:
                drafter.announced = True
                self.pool.ask(drafter.request, 0, 0.0)
                self._worker_use.told()

    async def _ask(self, asked: dict[Drafter, int]) -> None:
        assert self.pool is not None
        for drafter in asked:
            drafter.announced = True  # it reads the text in order to answer
        longest = max(asked.values())
        deadline_s = _FIXED_DEADLINE_S if self._fixed else self._draft_costs.deadline_s(longest)
        began_ns = time.perf_counter_ns()
        waiting = [d for d, length in asked.items() if self.pool.ask(d.request, length, deadline_s)]
        await self.pool.wait([drafter.request for drafter in waiting], deadline_s)
        waited_ns = time.perf_counter_ns() - began_ns
        self._turn_began_ns += waited_ns
        for drafter in waiting:
            drafter.record.wait_ns += waited_ns
        if waiting:
            arrived = any(drafter.request.drafted is not None for drafter in waiting)
            self.waits.observe(waited_ns * 1e-9)
            self._draft_costs.observe(longest, waited_ns * 1e-9, arrived)

    def _taken(self, drafter: Drafter, length: int) -> "array[int]":
        """Return the ids to verify, at most `length`: the worker's, or else what the text itself suggests."""
        if not length:
            return array("i")
        if drafter.asked_source == "worker" and self.pool is not None:
            drafted = self.pool.take(drafter.request)
            if drafted is not None:
                drafter.source = "worker"
                return drafted.token_ids[:length]
        drafter.source = drafter.text_source
        return array("i", drafter.found.ids[:length].tolist())


def _decodes(job: Generation) -> bool:
    sequence = job.sequence
    return sequence.state is State.RUNNING and sequence.uncomputed == 1 and job.max_draft_tokens > 0
