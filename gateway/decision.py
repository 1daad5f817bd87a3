"""What a step's answers mean: which token each sampled row draws, how likely each scored token was."""

from collections.abc import Sequence as Seq

import numpy as np

from common.errors import RequestFailed
from gateway.frames import ListLengths
from gateway.generation import Generation
from gateway.sampling.candidates import Candidates, join_slices, merge_sampled, merge_scored
from gateway.sampling.lists import VocabularySlice
from gateway.sampling.logprobs import TokenLogprobs, scored_logprobs, token_logprobs
from gateway.sampling.sampler import Choice, choose, choose_from_whole
from gateway.sampling.winners import winners
from gateway.scheduling.plan import Outcome, Row, StepPlan
from gateway.scoring import Scoring
from gateway.shard_group import ShardGroup
from tandem.shard.v1 import shard_service_pb2 as pb

Job = Generation | Scoring
Records = list[int | None] | Candidates
ENDED = Outcome(finished=True)


class Decision:
    """Decides one step. A row whose job is None was cancelled: its outcome is not looked at."""

    def __init__(self, plan: StepPlan, jobs: Seq[Job | None], group: ShardGroup) -> None:
        self.failed: list[Job] = []
        self._rows = list(zip(plan.rows, jobs, strict=True))
        self._group = group
        self._slices = [VocabularySlice(rank.vocabulary_first, rank.vocabulary_size) for rank in group.info.ranks]
        generations = [job for row, job in self._rows if row.sampled and isinstance(job, Generation)]
        scorings = [job for row, job in self._rows if row.scored and isinstance(job, Scoring)]
        # Where nobody asks for more than the winner, nobody looks at more.
        self._winners_do = all(g.params.is_plain for g in generations)
        num_noised, num_top, num_raw = 1, 0, 0
        if not self._winners_do:
            num_noised = max(g.params.num_noised_wanted for g in generations)
            num_top = max(g.num_top_wanted for g in generations)
            num_raw = max(g.params.num_raw_wanted for g in generations)
        # Whether a token is the model's own first choice takes a list of one.
        num_scored_raw = max((max(s.top_logprobs, 1) for s in scorings), default=1)
        self.lengths = ListLengths(num_noised, num_top, num_raw, num_scored_raw)

    async def decide(self, results: Seq[pb.StepResult]) -> list[Outcome]:
        """Hand every job what came out for it; return one outcome per sampled row, in row order.

        A request whose numbers are not finite fails by itself and is listed in `failed`. Raises Unavailable when
        the group is lost over a row that needs whole slices.
        """
        outcomes = await self._decide_sampled(results)
        self._decide_scored(results)
        return outcomes

    async def _decide_sampled(self, results: Seq[pb.StepResult]) -> list[Outcome]:
        rows = [(row, job) for row, job in self._rows if row.sampled]
        if not rows:
            return []
        positions = sum(row.sampled + row.continued for row, _ in rows)
        records: Records
        if self._winners_do:
            records = winners(results, self._slices, positions)
        else:
            n = self.lengths
            records = merge_sampled(results, self._slices, positions, n.num_noised, n.num_top, n.num_raw)
        outcomes, first = [], 0
        for row, job in rows:
            if isinstance(job, Generation):
                outcomes.append(await self._verify(records, first, row, job))
            else:
                outcomes.append(ENDED)
            first += row.sampled + row.continued
        return outcomes

    async def _verify(self, records: Records, first: int, row: Row, job: Generation) -> Outcome:
        """Draw the row's tokens, one position after the other, as long as the ranks were fed the very token.

        Sample and match: a draft that is wrong ends the row, it never changes a token. Continued rows were fed winners.
        """
        draft_ids = row.draft_ids
        token_ids: list[int] = []
        finished, is_winner = True, True
        for position in range(first, first + row.sampled + row.continued):
            try:
                if isinstance(records, list):
                    token_id, logprobs, is_winner = _finite(records[position]), None, True
                else:
                    token_id, logprobs, is_winner = await self._draw(records, position, job)
            except RequestFailed as error:
                self.failed.append(job)
                job.fail(error)
                return Outcome(tuple(token_ids), finished=True)
            draft_id = draft_ids[position - first] if position - first < len(draft_ids) else None
            token_ids.append(token_id)
            finished = job.accept(token_id, logprobs, token_id == draft_id)
            was_fed = is_winner if row.continued else token_id == draft_id
            if finished or not was_fed:
                break
        return Outcome(tuple(token_ids), finished, is_winner)

    async def _draw(
        self, candidates: Candidates, position: int, job: Generation
    ) -> tuple[int, TokenLogprobs | None, bool]:
        """Return the token, what is to be told of it, and whether it is the best by noised score."""
        choice = choose(candidates, position, job.params)
        if not isinstance(choice, Choice):
            job.whole_row_fallbacks += 1
            whole = join_slices(await self._group.resolve(position), self._slices)
            choice = choose_from_whole(whole, job.params)
        wanted = job.params.logprobs
        logprobs = None if wanted is None else token_logprobs(candidates, position, choice, wanted)
        return choice.token_id, logprobs, choice.token_id == int(candidates.noised_ids[position, 0])

    def _decide_scored(self, results: Seq[pb.StepResult]) -> None:
        rows: list[tuple[Row, Job | None]] = [(row, job) for row, job in self._rows if row.scored]
        if not rows:
            return
        positions = sum(row.scored for row, _ in rows)
        scored = merge_scored(results, self._slices, positions, self.lengths.num_scored_raw)
        first = 0
        for row, job in rows:
            if isinstance(job, Scoring):
                try:
                    ids = np.asarray(row.scored_ids, dtype=np.int32)
                    job.add(scored_logprobs(scored, first, ids, job.top_logprobs))
                except RequestFailed as error:
                    self.failed.append(job)
                    job.fail(error)
            first += row.scored


def _finite(winner: int | None) -> int:
    if winner is None:
        raise RequestFailed("the model's logits are not finite")
    return winner
