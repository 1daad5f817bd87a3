"""A gateway's work in its plainest form: many prompts, one batch, chunked prefill, greedy ids."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tandem.shard.v1 import shard_service_pb2 as pb
from tests.support.plans import (
    Floats,
    PlanRow,
    greedy_open,
    make_plan,
    merged_greedy,
    merged_raw,
    merged_rows,
    merged_scores,
)

RunPlan = Callable[[pb.Plan], Sequence[pb.StepResult]]
ResolvePosition = Callable[[int], Sequence[pb.Resolved]]


@dataclass
class Generation:
    """What one prompt came to. `candidates` has, for each generated id, the best raw logits by token id."""

    prompt: list[int]
    blocks: list[int]
    ids: list[int] = field(default_factory=list)
    candidates: list[dict[int, float]] = field(default_factory=list)
    prompt_scores: list[float] = field(default_factory=list)  # log-probabilities of prompt[1:]
    first_row: Floats | None = None  # raw logits of the whole vocabulary, from which ids[0] was drawn
    computed: int = 0

    @property
    def known(self) -> list[int]:
        """The prompt and all that was generated."""
        return self.prompt + self.ids


class GreedyDriver:
    """Runs prompts through a rank group, or one engine, with block tables that are shuffled on purpose."""

    def __init__(self, run: RunPlan, resolve: ResolvePosition, info: pb.GetInfoResponse) -> None:
        self._run = run
        self._resolve = resolve
        self._block_size = info.block_size_tokens
        self._max_step_tokens = info.max_step_tokens
        self._free = random.Random(0).sample(range(info.num_blocks), info.num_blocks)
        self._next_sequence = 1

    def generate(
        self, prompts: Sequence[Sequence[int]], num_tokens: int, chunk_tokens: int = 512, num_raw: int = 8
    ) -> list[Generation]:
        """Return `num_tokens` greedy ids for each prompt; prompts are scored on the way."""
        answers = [Generation(list(prompt), self._blocks(len(prompt) + num_tokens)) for prompt in prompts]
        first = self._next_sequence
        self._next_sequence += len(answers)
        numbered = dict(enumerate(answers, first))
        opens = [greedy_open(number) for number in numbered]
        while running := {number: a for number, a in numbered.items() if len(a.ids) < num_tokens}:
            rows = self._rows(running, chunk_tokens)
            results = self._run(make_plan(rows, opens, num_raw=num_raw))
            opens = []
            self._enter([(numbered[row.sequence], row) for row in rows], results)
        for answer in answers:
            self._free += answer.blocks
        return answers

    def _rows(self, running: dict[int, Generation], chunk_tokens: int) -> list[PlanRow]:
        rows, room = [], self._max_step_tokens
        for number, answer in running.items():
            known, base = answer.known, answer.computed
            ids = known[base : base + min(chunk_tokens, room)]
            room -= len(ids)
            if not ids:
                continue
            end = base + len(ids)
            # The prompt's last position is asked about id 0, whose score is thrown away: `scored` counts from the end.
            following = [*answer.prompt[base + 1 :], 0][: len(ids)] if end <= len(answer.prompt) else []
            blocks = answer.blocks[: -(-end // self._block_size)]
            rows.append(PlanRow(number, base, ids, blocks, int(end == len(known)), following))
        return rows

    def _enter(self, rows: list[tuple[Generation, PlanRow]], results: Sequence[pb.StepResult]) -> None:
        winners, (raw_ids, raw_logits) = merged_greedy(results), merged_raw(results)
        position = 0
        scores = merged_scores(results).tolist()
        for answer, row in rows:
            answer.computed = row.base_length + len(row.ids)
            answer.prompt_scores += scores[: len(row.scored_ids)]
            del scores[: len(row.scored_ids)]
            if not row.sampled:
                continue
            if not answer.ids:
                answer.prompt_scores.pop()
                answer.first_row = merged_rows(self._resolve(position))
            answer.candidates.append(dict(zip(raw_ids[position].tolist(), raw_logits[position].tolist(), strict=True)))
            answer.ids.append(winners[position])
            position += 1
        assert position == len(winners) and not scores

    def _blocks(self, tokens: int) -> list[int]:
        count = -(-tokens // self._block_size)
        assert count <= len(self._free), "the prompts do not fit in the KV cache"
        taken, self._free = self._free[:count], self._free[count:]
        return taken


def assert_matches(answer: Generation, reference_TV: Floats, tolerance: float) -> float:
    """Assert that `answer` is what greedy decoding of the reference gives; return the largest |logit difference|.

    reference_TV: float32[len(prompt) + len(ids), V], the reference's logits over prompt and answer. Each id being the
    reference's argmax after the same prefix means, by induction, that its own greedy ids are these.
    """
    start = len(answer.prompt) - 1
    assert answer.ids == reference_TV[start:-1].argmax(axis=1).tolist()
    assert answer.first_row is not None
    worst = float(np.abs(answer.first_row - reference_TV[start]).max())
    for step, candidates in enumerate(answer.candidates):
        ids, logits = np.array(list(candidates)), np.array(list(candidates.values()))
        assert len(ids) == len(candidates) and answer.ids[step] in candidates
        worst = max(worst, float(np.abs(logits - reference_TV[start + step, ids]).max()))
    own = reference_TV[np.arange(start), answer.prompt[1:]] - _log_sum_exp(reference_TV[:start])
    score_difference = np.abs(own - np.array(answer.prompt_scores)).max(initial=0.0)
    assert max(worst, score_difference) <= tolerance
    return max(worst, float(score_difference))


def _log_sum_exp(logits_TV: Floats) -> npt.NDArray[np.float64]:
    """Return float64[T], a row at a time: all rows of a long prompt would take a gigabyte in float64."""
    tops_T = logits_TV.max(axis=1, initial=-np.inf).astype(np.float64)
    rows = zip(logits_TV, tops_T, strict=True)
    return np.array([top + np.log(np.exp(row - top).sum()) for row, top in rows], np.float64)
