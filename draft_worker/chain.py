"""One request's drafted tokens: the main line, which the draft believes in, and side lines that begin at its doubts.

A line is the committed text and the tokens drafted after it. It is one sequence of the engine. A side line differs
from the main line from one drafted token on; it shares the main line's whole KV blocks before that, reads the few
positions of the block in which they part anew, and lives until the next commit, which may make it the main line.
"""

from dataclasses import dataclass, field

import numpy as np

from draft_worker.blocks import BlockPool
from draft_worker.proposer import Ask, Token
from draft_worker.text import Ids, Text


@dataclass(slots=True)
class Line:
    """Positions 0 .. num_read - 1 of the line are in the KV cache, in `blocks`; the first `num_shared` of those blocks
    are the main line's. `sequence` is the engine's number, None until it is opened there. `wanted` is how many drafted
    tokens are worth having.
    """

    tokens: list[Token] = field(default_factory=list)
    num_read: int = 0
    blocks: list[int] = field(default_factory=list)
    num_shared: int = 0
    sequence: int | None = None
    wanted: int = 0


class Chain:
    """All lines of one text. Closed sequences are put into `closed`, for the engine to be told."""

    def __init__(self, text: Text, pool: BlockPool, closed: list[int]) -> None:
        self.text = text
        self.main = Line()
        self.sides: list[Line] = []
        self.ask: Ask | None = None
        self.count = 0
        self.has_branched = False
        self._pool, self._closed = pool, closed

    @property
    def unread_tokens(self) -> int:
        """How many committed ids the model has not read."""
        return max(0, self.text.length - self.main.num_read)

    def length(self, line: Line) -> int:
        """Return how many ids a line has."""
        return self.text.length + len(line.tokens)

    def holds(self, line: Line) -> bool:
        """Return whether a line is still one of this chain's."""
        return line is self.main or any(line is side for side in self.sides)

    def ids(self, line: Line, start: int, stop: int) -> Ids:
        """Return a line's ids [start, stop), int32."""
        committed = self.text.ids[start:stop]
        drafted = line.tokens[max(0, start - self.text.length) : max(0, stop - self.text.length)]
        return np.concatenate((committed, np.array([token.id for token in drafted], dtype=np.int32)))

    def advance(self, old_length: int, unchanged: int) -> None:
        """Follow a commit: go on with the line that foresaw most of it, and drop what did not happen.

        The text had old_length ids, of which `unchanged` stayed. Every line keeps what was read of unchanged ids.
        """
        new_ids = self.text.ids[old_length:].tolist()
        if unchanged < old_length:
            self._cut(self.main, 0, unchanged)
        else:
            best = max([self.main, *self.sides], key=lambda line: _foreseen(line, new_ids))
            if best is not self.main:
                self._promote(best)
            foreseen = _foreseen(best, new_ids)
            if foreseen == len(new_ids):
                del best.tokens[:foreseen]
            else:
                self._cut(best, 0, old_length + foreseen)
        self.drop_sides()
        self.has_branched = False

    def branch(self, at: int) -> None:
        """Begin a side line that differs from the main line in drafted token `at`: its runner-up instead.

        The side line owns no blocks yet, and wants as many tokens after that one as were asked for.
        """
        tokens = self.main.tokens[:at]
        tokens.append(Token(self.main.tokens[at].runner_up_id, 0.0, 0.0, -1))
        shared = min(self.main.num_read, self.text.length + at) // self._pool.block_size
        self.sides.append(
            Line(
                tokens=tokens,
                num_read=shared * self._pool.block_size,
                blocks=self.main.blocks[:shared],
                num_shared=shared,
                wanted=len(tokens) + self.count,
            )
        )

    def drop_sides(self) -> None:
        """Forget all side lines."""
        for side in self.sides:
            self._pool.give_back(side.blocks[side.num_shared :])
            self._close(side)
        self.sides.clear()

    def evict(self) -> None:
        """Give all KV blocks back. Drafted tokens stay."""
        self.drop_sides()
        self._pool.give_back(self.main.blocks)
        self.main.blocks, self.main.num_read = [], 0

    def close(self) -> None:
        """Give everything back."""
        self.evict()
        self._close(self.main)

    def _promote(self, side: Line) -> None:
        self.sides = [other for other in self.sides if other is not side]
        self._pool.give_back(self.main.blocks[side.num_shared :])
        self._close(self.main)
        side.num_shared = 0
        self.main = side

    def _cut(self, line: Line, num_tokens: int, num_read: int) -> None:
        """Keep so many drafted tokens and read positions; give back blocks that hold nothing any more.

        The last id is always read anew: that is what draws the next.
        """
        del line.tokens[num_tokens:]
        line.num_read = min(line.num_read, num_read, self.length(line) - 1)
        held = -(-line.num_read // self._pool.block_size)
        self._pool.give_back(line.blocks[held:])
        del line.blocks[held:]

    def _close(self, line: Line) -> None:
        if line.sequence is not None:
            self._closed.append(line.sequence)
            line.sequence = None


def _foreseen(line: Line, new_ids: list[int]) -> int:
    """Return how many of the new ids, from the first on, the line has drafted."""
    count = 0
    for token, id_ in zip(line.tokens, new_ids, strict=False):
        if token.id != id_:
            break
        count += 1
    return count
