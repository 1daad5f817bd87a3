"""What a request's span is made of: the phases it went through, and what the steps of each phase were spent on."""

from dataclasses import dataclass

from common.telemetry.tracer import Attributes, Hop
from gateway.waterfall import HopSums, Waterfall


@dataclass(frozen=True)
class Drafting:
    """What a request's drafts cost, and whether any were verified."""

    wait_ns: int = 0
    rounds: int = 0


def phases(waterfall: Waterfall, ended_ns: int, is_finished: bool, drafting: Drafting) -> list[Hop]:
    """Return the phases that were reached, one after the other: together they take the request's whole time.

    A request that ended early ended in the last of them; only one that `is_finished` has all, `deliver` included: from
    its last token until the client had taken it.
    """
    w = waterfall
    tokenized_ns = w.arrived_ns + w.tokenize_ns if w.tokenize_ns else ended_ns
    hops = [Hop("tokenize", w.arrived_ns, tokenized_ns)]
    if not w.admitted_ns:
        return hops
    hops.append(Hop("queue", tokenized_ns, w.first_step_ns or ended_ns))
    if not w.first_step_ns:
        return hops
    before = w.first_token_hops or w.hops
    computed_ns = w.first_token_ns or ended_ns
    hops.append(_phase("prefill", w.first_step_ns, computed_ns, before, _forward(before)))
    if not w.first_token_ns:
        return hops
    decoded = _since(w.hops, before)
    last_ns = w.last_token_ns if is_finished else ended_ns
    hops.append(_phase("decode", w.first_token_ns, last_ns, decoded, _decode(w, decoded, drafting)))
    if is_finished:
        hops.append(Hop("deliver", last_ns, ended_ns))
    return hops


# A part: its name, what it took in all, and more about it.
Part = tuple[str, int, Attributes]


def _decode(waterfall: Waterfall, decoded: HopSums, drafting: Drafting) -> list[Part]:
    waits: list[Part] = [("propose", drafting.wait_ns, {"tandem.speculation.rounds": drafting.rounds})]
    *before, (decide, decide_ns, _) = _forward(decoded, "verify" if drafting.rounds else "forward")
    detokenize_ns = min(waterfall.detokenize_ns, decide_ns)
    after: list[Part] = [(decide, decide_ns - detokenize_ns, {}), ("detokenize", detokenize_ns, {})]
    return [*(waits if drafting.wait_ns else []), *before, *after]


def _forward(sums: HopSums, name: str = "forward") -> list[Part]:
    wire_ms = {"tandem.hop.wire_ms": sums.wire_ns / 1e6}
    return [("plan", sums.plan_ns, {}), (name, sums.round_trip_ns, wire_ms), ("decide", sums.decide_ns, {})]


def _phase(name: str, start_ns: int, end_ns: int, sums: HopSums, parts: list[Part]) -> Hop:
    """Return a phase whose parts, sums over its steps, are laid end to end from its beginning on."""
    hops, at_ns = [], start_ns
    for part, total_ns, attributes in parts:
        until_ns = min(end_ns, at_ns + total_ns)
        sum_ms = {"tandem.is_sum": True, "tandem.duration_ms": total_ns / 1e6}
        hops.append(Hop(part, at_ns, until_ns, {**sum_ms, **attributes}))
        at_ns = until_ns
    return Hop(name, start_ns, end_ns, {"tandem.steps": sums.steps}, hops)


def _since(later: HopSums, earlier: HopSums) -> HopSums:
    return HopSums(
        steps=later.steps - earlier.steps,
        plan_ns=later.plan_ns - earlier.plan_ns,
        round_trip_ns=later.round_trip_ns - earlier.round_trip_ns,
        wire_ns=later.wire_ns - earlier.wire_ns,
        decide_ns=later.decide_ns - earlier.decide_ns,
    )
