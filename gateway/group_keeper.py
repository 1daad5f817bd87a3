"""The rank group that a step loop holds, and the one it moves to when that says goodbye."""

import asyncio
import logging
from collections.abc import Callable

from common.errors import TandemError
from gateway.rank_groups import RankGroups
from gateway.shard_group import GroupInfo, ShardGroup

# Ranks that stop have many seconds for it, and each question costs them and us a millisecond beside the steps.
WATCH_EVERY_S = 1.0

log = logging.getLogger(__name__)


class GroupKeeper:
    """Holds at most one group, and while that is leaving, the next one too. All calls come from one event loop."""

    def __init__(self, groups: RankGroups, check: Callable[[GroupInfo], None], on_news: Callable[[], None]) -> None:
        """`check` raises a TandemError for a group that cannot be served with; `on_news` is called when there is a
        reason to leave."""
        self.group: ShardGroup | None = None
        self._groups, self._check, self._on_news = groups, check, on_news
        self._successor: ShardGroup | None = None
        self._is_draining = False
        self._told = set[str]()

    def may_leave(self, idle: bool) -> bool:
        """Whether to `let_go` now: the next one is ready, or it is waited for and nothing runs on it."""
        return self._successor is not None or (idle and self._is_draining)

    async def acquire(self) -> ShardGroup:
        """Return the group that is held, else one that is attached as soon as there is one. Logs each reason once."""
        while self.group is None:
            self.group = await self._attach("waiting for the ranks")
            if self.group is None:
                await asyncio.sleep(self._groups.retry_s)
        info = self.group.info
        log.info("attached to %d ranks, %d KV blocks", len(info.ranks), info.num_blocks)
        self._told.clear()
        return self.group

    async def watch(self) -> None:
        """Once the group that is held is leaving, attach to another; ends when that is done, or by cancellation."""
        group = self.group
        assert group is not None
        while self._successor is None:
            was_draining, self._is_draining = self._is_draining, await group.is_draining()
            if self._is_draining or self._groups.is_leaving(group):
                self._successor = await self._attach("the ranks are about to stop, and there are no others yet")
            if self._successor is not None or self._is_draining > was_draining:
                self._on_news()
            await asyncio.sleep(WATCH_EVERY_S)

    def let_go(self) -> ShardGroup:
        """Return the group that was held, to be closed; the next one, if there is one, is held from now on."""
        assert self.group is not None
        old, self.group, self._successor = self.group, self._successor, None
        self._is_draining = False
        return old

    async def close(self) -> None:
        """End all that is held."""
        while self.group is not None:
            await self.let_go().close()

    async def _attach(self, waiting: str) -> ShardGroup | None:
        try:
            group = await self._groups.attach()
            try:
                self._check(group.info)
            except BaseException:
                await group.close()
                raise
        except TandemError as error:
            if str(error) not in self._told:
                self._told.add(str(error))
                log.info("%s: %s", waiting, error)
            return None
        return group
