"""What a draft worker measures of itself: what it proposes, how long that takes, what it holds and forgets."""

from collections.abc import Iterable

from common.telemetry.metrics import STEP_BOUNDS_S, Metrics
from draft_worker.desk import Answer, Desk
from draft_worker.proposer import About
from tandem.draft.v1 import draft_service_pb2 as pb

ID_BYTES = 4
OUTCOMES = {
    number: name.removeprefix("OUTCOME_").lower() for name, number in pb.Outcome.items() if number
}  # as in the label: proposed, unknown, ...


class DraftMetrics:
    """Told by the service of each batch of answers. All calls come from the event loop."""

    def __init__(self) -> None:
        self.registry = Metrics()
        count, gauge, histogram = self.registry.counter, self.registry.gauge, self.registry.histogram
        proposals = count(
            "tandem.draft_worker.proposals",
            "{proposal}",
            "Answers to gateways' asks, by outcome as in tandem.draft.v1.Outcome.",
            ("outcome",),
        )
        self._proposals = {number: proposals.of(name) for number, name in OUTCOMES.items()}
        self._tokens = count("tandem.draft_worker.proposed_tokens", "{token}", "Tokens that were proposed.").of()
        self._queue_s = histogram(
            "tandem.draft_worker.queue_time", "s", "Time an ask waited before work on it began.", STEP_BOUNDS_S
        ).of()
        self._compute_s = histogram(
            "tandem.draft_worker.compute_time",
            "s",
            "Time from the beginning of work on an ask to its answer.",
            STEP_BOUNDS_S,
        ).of()
        self._steps = count("tandem.draft_worker.steps", "{step}", "Steps of the draft that proposals took.").of()
        self._forgotten = count(
            "tandem.draft_worker.forgotten", "{request}", "Requests forgotten for want of room, before they had ended."
        ).of()
        self._open = gauge("tandem.draft_worker.requests", "{request}", "Requests that are remembered.").of()
        self._waiting = gauge("tandem.draft_worker.waiting", "{ask}", "Asks that are not answered yet.").of()
        self._used = gauge("tandem.draft_worker.kv_used_tokens", "{token}", "Positions the KV cache holds.").of()
        self._capacity = gauge(
            "tandem.draft_worker.kv_tokens", "{token}", "Positions the KV cache has room for; 0 without a model."
        ).of()
        self._busy = gauge("tandem.draft_worker.busy", "1", "Share of the last second spent on asks, from 0 to 1.").of()
        self._ready = gauge("tandem.draft_worker.ready", "", "Whether the worker can propose: 1 or 0.").of()

    def watch(self, desk: Desk) -> None:
        """Read the desk whenever somebody asks; it may work on its own thread meanwhile."""

        def refresh() -> None:
            self._forgotten.value = desk.num_forgotten
            self._open.set(len(desk))

        self.registry.before_reading(refresh)

    def loaded(self, about: About) -> None:
        """The proposer is there."""
        self._capacity.set(about.kv_cache_tokens)
        self._ready.set(1)

    def answered(self, answers: Iterable[Answer], load: pb.Load) -> None:
        """These answers are on their way, and this is the load."""
        self._waiting.set(load.waiting)
        self._used.set(load.kv_cache_used_tokens)
        self._busy.set(load.busy_fraction)
        for _, proposal in answers:
            if proposal is None:
                continue
            self._proposals[proposal.outcome].add()
            if proposal.outcome == pb.OUTCOME_PROPOSED:
                self._tokens.value += len(proposal.ids) // ID_BYTES
                self._steps.value += proposal.num_steps
                self._queue_s.observe(proposal.queue_ns * 1e-9)
                self._compute_s.observe(proposal.compute_ns * 1e-9)
