"""What a step's answers mean: which token each sampled row draws, how likely each scored token was."""

from collections.abc import Sequence as Seq

import numpy as np

from common.errors import RequestFailed
from gateway.frames import ListLengths
from gateway.generation import Generation
from gateway.sampling.candidates import Candidates, join_slices, merge_sampled, merge_scored
from gateway.sampling.lists import VocabularySlice
from gateway.sampling.logprobs import scored_logprobs, token_logprobs
from gateway.sampling.sampler import Choice, choose, choose_from_whole
from gateway.scheduling.plan import Outcome, Row, StepPlan
from gateway.scoring import Scoring
from gateway.shard_group import ShardGroup
from tandem.shard.v1 import shard_service_pb2 as pb

Job = Generation | Scoring
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
        self.lengths = ListLengths(
            num_noised=max((g.params.num_noised_wanted for g in generations), default=1),
            num_top=max((g.num_top_wanted for g in generations), default=0),
            num_raw=max((g.params.num_raw_wanted for g in generations), default=0),
            # Whether a token is the model's own first choice takes a list of one.
            num_scored_raw=max((max(s.top_logprobs, 1) for s in scorings), default=1),
        )

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
        wanted = self.lengths
        candidates = merge_sampled(results, self._slices, positions, wanted.num_noised, wanted.num_top, wanted.num_raw)
        outcomes, first = [], 0
        for row, job in rows:
            if isinstance(job, Generation):
                outcomes.append(await self._verify(candidates, first, row, job))
            else:
                outcomes.append(ENDED)
            first += row.sampled + row.continued
        return outcomes

    async def _verify(self, candidates: Candidates, first: int, row: Row, job: Generation) -> Outcome:
        """Draw the row's tokens, one position after the other, as long as the ranks were fed the very token.

        Sample and match: a draft that is wrong ends the row, it never changes a token. Continued rows were fed winners.
        """
        draft_ids = row.draft_ids
        token_ids: list[int] = []
        for index in range(row.sampled + row.continued):
            draft_id = draft_ids[index] if index < len(draft_ids) else None
            drawn = await self._draw(candidates, first + index, job, draft_id)
            token_ids += drawn.token_ids
            was_fed = drawn.is_winner if row.continued else drawn.token_ids == (draft_id,)
            if drawn.finished or not was_fed:
                break
        return Outcome(tuple(token_ids), drawn.finished, drawn.is_winner)

    async def _draw(self, candidates: Candidates, position: int, job: Generation, draft_id: int | None) -> Outcome:
        try:
            choice = choose(candidates, position, job.params)
            if not isinstance(choice, Choice):
                job.whole_row_fallbacks += 1
                whole = join_slices(await self._group.resolve(position), self._slices)
                choice = choose_from_whole(whole, job.params)
        except RequestFailed as error:
            self.failed.append(job)
            job.fail(error)
            return ENDED
        wanted = job.params.logprobs
        logprobs = None if wanted is None else token_logprobs(candidates, position, choice, wanted)
        is_winner = choice.token_id == int(candidates.noised_ids[position, 0])
        return Outcome(
            (choice.token_id,), job.accept(choice.token_id, logprobs, choice.token_id == draft_id), is_winner
        )

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
