"""How a model is cut into ranks: which heads, feed-forward columns and vocabulary rows a rank holds."""

from dataclasses import dataclass

from common.errors import CheckpointError
from common.manifest import Architecture


@dataclass(frozen=True)
class Span:
    """The half-open range [start, stop)."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.stop - self.start

    def scaled(self, factor: int) -> "Span":
        """Return the range in units `factor` times smaller: heads to rows, say."""
        return Span(self.start * factor, self.stop * factor)


@dataclass(frozen=True)
class Partition:
    """One rank's part of a model. Query head h (local) attends through local KV head `kv_of_query[h]`."""

    rank: int
    world_size: int
    query_heads: Span
    kv_heads: Span
    kv_of_query: tuple[int, ...]
    feed_forward: Span
    vocabulary: Span

    @property
    def queries_per_kv(self) -> int | None:
        """Queries of each local KV head when all have equally many, in order; else None."""
        per_kv = len(self.kv_of_query) // self.kv_heads.size
        even = tuple(h // per_kv for h in range(len(self.kv_of_query)))
        return per_kv if per_kv * self.kv_heads.size == len(self.kv_of_query) and even == self.kv_of_query else None

    @property
    def first_queries(self) -> list[int]:
        """Where each local KV head's query heads begin, and where the last one's end."""
        assert list(self.kv_of_query) == sorted(self.kv_of_query), "query heads lie in the order of their KV heads"
        return [sum(kv < head for kv in self.kv_of_query) for head in range(self.kv_heads.size + 1)]


def partition(architecture: Architecture, rank: int, world_size: int, feed_forward_unit: int = 1) -> Partition:
    """Return what `rank` of `world_size` holds.

    Feed-forward columns are dealt out in units of `feed_forward_unit`: the group of an int4 matrix stays whole.
    KV heads are dealt out whole where they divide. Else, and with more ranks than KV heads, the query heads are dealt
    out and each rank holds a copy of the KV heads its queries need, if that leaves less to the rank that has the most:
    the others wait for it in every layer. Raises CheckpointError when some rank would be left with nothing to do.
    """
    if not 0 <= rank < world_size:
        raise CheckpointError(f"rank {rank} is not one of {world_size} ranks")
    units = -(-architecture.intermediate_size // feed_forward_unit)
    for count, what in (
        (architecture.query_heads, "query heads"),
        (architecture.intermediate_size, "feed-forward columns"),
        (units, f"groups of {feed_forward_unit} feed-forward columns; quantise with smaller groups"),
        (architecture.vocabulary_size, "vocabulary rows"),
    ):
        if world_size > count:
            raise CheckpointError(f"{world_size} ranks cannot share {count} {what}")
    if architecture.query_heads % architecture.kv_heads:
        raise CheckpointError(
            f"{architecture.query_heads} query heads do not divide among {architecture.kv_heads} KV heads"
        )
    per_kv = architecture.query_heads // architecture.kv_heads
    query_heads = _query_heads(architecture.kv_heads, per_kv, world_size)[rank]
    kv_heads = _kv_heads(query_heads, per_kv)
    wide = _share(units, rank, world_size).scaled(feed_forward_unit)
    return Partition(
        rank=rank,
        world_size=world_size,
        query_heads=query_heads,
        kv_heads=kv_heads,
        kv_of_query=tuple(h // per_kv - kv_heads.start for h in range(query_heads.start, query_heads.stop)),
        feed_forward=Span(wide.start, min(wide.stop, architecture.intermediate_size)),
        vocabulary=_share(architecture.vocabulary_size, rank, world_size),
    )


def _query_heads(kv_heads: int, per_kv: int, world_size: int) -> list[Span]:
    """Return each rank's query heads."""
    by_query = [_share(kv_heads * per_kv, rank, world_size) for rank in range(world_size)]
    if world_size > kv_heads:
        return by_query
    whole = [_share(kv_heads, rank, world_size).scaled(per_kv) for rank in range(world_size)]

    def most(deal: list[Span]) -> tuple[int, int]:
        kv_sizes = [_kv_heads(span, per_kv).size for span in deal]
        return max(span.size + kv for span, kv in zip(deal, kv_sizes, strict=True)), max(kv_sizes)

    (load, kv_most), (whole_load, whole_kv_most) = most(by_query), most(whole)
    return by_query if load < whole_load and kv_most <= whole_kv_most else whole


def _kv_heads(query_heads: Span, per_kv: int) -> Span:
    """Return the KV heads that these query heads read."""
    return Span(query_heads.start // per_kv, (query_heads.stop - 1) // per_kv + 1)


def _share(total: int, rank: int, world_size: int) -> Span:
    """Return rank's contiguous share of `total`; the first ranks take one more where it does not divide."""
    base, extra = divmod(total, world_size)
    start = rank * base + min(rank, extra)
    return Span(start, start + base + (rank < extra))
