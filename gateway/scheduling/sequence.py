"""The noun of the gateway: one request's truth, from which every rank's state can be rebuilt."""

from array import array
from collections.abc import Iterable
from dataclasses import InitVar, dataclass, field
from enum import Enum
from typing import Any


class Kind(Enum):
    """What a sequence is for."""

    GENERATE = "generate"
    SCORE = "score"


class State(Enum):
    """Where a sequence stands. Only RUNNING sequences hold KV blocks."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(eq=False, slots=True)
class Sequence:
    """One request. Only the scheduler changes it.

    There is no prefill or decode: a sequence feeds `token_ids[num_computed:end]`, in chunks. When a chunk of
    a GENERATE sequence reaches the end of `token_ids`, its last position is sampled. A decode is a chunk of
    length 1.

    A SCORE sequence asks how likely each of its tokens from `first_scored` on is, given those before it. The
    likelihood of token p comes out of position p - 1, so the last token itself is never fed.
    """

    tenant: str
    prompt_ids: InitVar[Iterable[int]]
    max_new_tokens: int  # 0 for SCORE
    params: Any = None  # sampling parameters: a frozen object that scheduling never looks into
    kind: Kind = Kind.GENERATE
    first_scored: int = 1  # SCORE: first token position to score; at least 1, for token 0 has no context

    token_ids: "array[int]" = field(init=False)  # i32: the prompt, then the committed output
    prompt_length: int = field(init=False)
    num_computed: int = field(default=0, init=False)  # positions whose keys and values exist
    next_scored: int = field(init=False)  # SCORE: first token position not yet scored
    block_table: "array[int]" = field(default_factory=lambda: array("i"), init=False)  # i32
    state: State = field(default=State.WAITING, init=False)

    number: int = field(default=-1, init=False)  # u32: the ranks' name for it; fresh after each preemption
    arrival: int = field(default=-1, init=False)  # place in the order of arrival
    opened: bool = field(default=False, init=False)  # the ranks know `number`
    started: bool = field(default=False, init=False)  # it has left the queue at least once
    preemptions: int = field(default=0, init=False)
    draft_ids: "array[int]" = field(default_factory=lambda: array("i"), init=False)  # i32: to be verified next
    speculates: bool = field(default=False, init=False)  # drafts are being asked for
    drafts_any_time: bool = field(default=False, init=False)  # any token may bring up a draft: none is run past
    confirmation: float = field(default=1.0, init=False)  # moving share of its tokens that were winners
    cached_prompt_tokens: int = field(default=0, init=False)  # as found when it first started
    traceparent: str = field(default="", init=False)  # W3C: what ranks are told of its trace; empty: it has none

    # The prefix cache's bookmarks: keys of the full blocks, how many blocks were looked up or published, and
    # the serial number of the last one's entry.
    block_keys: list[bytes] = field(default_factory=list, init=False)
    num_published: int = field(default=0, init=False)
    published_serial: int = field(default=0, init=False)

    def __post_init__(self, prompt_ids: Iterable[int]) -> None:
        self.token_ids = array("i", prompt_ids)
        self.prompt_length = len(self.token_ids)
        self.next_scored = self.first_scored

    @property
    def output_ids(self) -> "array[int]":
        """The committed output, i32."""
        return self.token_ids[self.prompt_length :]

    @property
    def end(self) -> int:
        """Number of positions that can be computed now."""
        length = len(self.token_ids)
        return length if self.kind is Kind.GENERATE else max(length - 1, 1)

    @property
    def uncomputed(self) -> int:
        """Number of ids to feed; 1 is a decode."""
        if self.kind is Kind.GENERATE:  # as `end` has it; asked several times a row
            return len(self.token_ids) - self.num_computed
        return self.end - self.num_computed

    @property
    def max_length(self) -> int:
        """Most positions the sequence can ever hold."""
        return self.prompt_length + self.max_new_tokens

    @property
    def reusable(self) -> int:
        """Most positions that may come out of the prefix cache: what must be reported has to be computed."""
        last = self.end - 1
        return last if self.kind is Kind.GENERATE else max(0, min(last, self.next_scored - 1))

    def append(self, new_ids: Iterable[int]) -> None:
        """Commit new output after all of `token_ids` was fed.

        All new ids but the last were drafts the ranks have already computed; see `Row`.
        """
        length = len(self.token_ids)
        self.token_ids.extend(new_ids)
        self.num_computed = max(length, len(self.token_ids) - 1)

    def forget_blocks(self) -> None:
        """Return to the state before anything was computed; committed ids stay."""
        self.block_table, self.draft_ids = array("i"), array("i")
        self.num_computed = self.num_published = self.published_serial = 0
