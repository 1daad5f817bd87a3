"""Which rank group may this gateway serve with: the one it was told of, or a free one among those that are found?"""

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol
from weakref import WeakKeyDictionary

import grpc

from common.errors import TandemError, Unavailable
from common.tls import ClientTls
from gateway.discovery.endpoint import Endpoint
from gateway.shard_group import RankLink, ShardGroup
from tandem.shard.v1 import shard_service_pb2 as pb

SURVEY_TIMEOUT_S = 1.0


class RankGroups(Protocol):
    """Where a gateway finds its ranks."""

    retry_s: float  # between two attempts to attach

    async def attach(self) -> ShardGroup:
        """Take a group. Raises Unavailable or Refused where none can be had."""
        ...

    def is_leaving(self, group: ShardGroup) -> bool:
        """Whether a group that is held is known to go away soon, by others than its own ranks."""
        ...


class FixedGroup:
    """One group, at addresses in rank order. It is this gateway's, so it is taken from whoever holds it."""

    retry_s = 0.1

    def __init__(
        self, addresses: Sequence[str], checkpoint_hash: str, step_timeout_s: float, tls: ClientTls | None = None
    ) -> None:
        self._addresses, self._checkpoint_hash, self._step_timeout_s = addresses, checkpoint_hash, step_timeout_s
        self._tls = tls

    async def attach(self) -> ShardGroup:
        """Take the group."""
        return await ShardGroup.attach(self._addresses, self._checkpoint_hash, self._step_timeout_s, self._tls)

    def is_leaving(self, group: ShardGroup) -> bool:
        """Only its ranks know."""
        return False


class FoundGroups:
    """Groups of hosts that come and go, shared with other gateways: a group obeys one, so only a free one is taken.

    A host's address is that of its first rank; its other ranks listen on the ports that follow. Ranks say themselves
    who they are: hosts that tell the same epoch are one group, in the order of their ranks.
    """

    retry_s = 0.25

    def __init__(self, checkpoint_hash: str, step_timeout_s: float, tls: ClientTls | None = None) -> None:
        self._checkpoint_hash, self._step_timeout_s, self._tls = checkpoint_hash, step_timeout_s, tls
        self._hosts = frozenset[str]()
        self._hosts_of: WeakKeyDictionary[ShardGroup, frozenset[str]] = WeakKeyDictionary()

    def set_endpoints(self, endpoints: Iterable[Endpoint]) -> None:
        """Have these hosts from now on."""
        self._hosts = frozenset(endpoint.address for endpoint in endpoints if endpoint.takes_work)

    async def attach(self) -> ShardGroup:
        """Take a free group. Raises Unavailable where there is none that fits."""
        found = await self._survey()
        reasons = [] if found else [f"no rank answers at any of {len(self._hosts)} hosts"]
        groups = complete_groups(found)
        random.shuffle(groups)  # gateways that look at the same time rarely want the same group
        for hosts in groups:
            first = found[hosts[0]]
            if first.held or first.draining:
                reasons.append(f"{hosts[0]}: the group is {'held by another gateway' if first.held else 'draining'}")
                continue
            try:
                group = await ShardGroup.attach(
                    rank_addresses(hosts, first.world_size),
                    self._checkpoint_hash,
                    self._step_timeout_s,
                    self._tls,
                    only_if_free=True,
                )
            except TandemError as error:
                reasons.append(str(error))
            else:
                self._hosts_of[group] = frozenset(hosts)
                return group
        raise Unavailable("; ".join(sorted(reasons)) or "no group of ranks is complete")

    def is_leaving(self, group: ShardGroup) -> bool:
        """Whether one of its hosts takes no more work."""
        return not self._hosts_of[group] <= self._hosts

    async def _survey(self) -> dict[str, pb.GetInfoResponse]:
        """Ask all hosts at once who they are; those that do not answer soon are left out."""
        hosts = sorted(self._hosts)
        answers = await asyncio.gather(*(_ask(host, self._tls) for host in hosts))
        return {host: answer for host, answer in zip(hosts, answers, strict=True) if answer is not None}


def complete_groups(found: Mapping[str, pb.GetInfoResponse]) -> list[tuple[str, ...]]:
    """Return the hosts of every group whose hosts are all among `found`, in rank order."""
    epochs: dict[int, dict[int, str]] = {}
    for host, info in found.items():
        epochs.setdefault(info.epoch, {})[info.rank] = host
    groups = []
    for hosts in epochs.values():
        ranks, world_size = sorted(hosts), found[next(iter(hosts.values()))].world_size
        if ranks == [number * world_size // len(ranks) for number in range(len(ranks))]:
            groups.append(tuple(hosts[rank] for rank in ranks))
    return groups


def rank_addresses(hosts: Sequence[str], world_size: int) -> list[str]:
    """Return the addresses of all ranks, in rank order."""
    parts = [host.rpartition(":") for host in hosts]
    return [f"{name}:{int(port) + local}" for name, _, port in parts for local in range(world_size // len(hosts))]


async def _ask(host: str, tls: ClientTls | None) -> pb.GetInfoResponse | None:
    link = RankLink(host, tls)
    try:
        async with asyncio.timeout(SURVEY_TIMEOUT_S):
            return await link.get_info()
    except (grpc.aio.AioRpcError, TimeoutError):
        return None
    finally:
        await link.close()
