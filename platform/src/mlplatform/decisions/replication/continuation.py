"""The choice of replicated records that continue what this log has of their writer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

from mlplatform.decisions.log.chains import Chain
from mlplatform.decisions.replication.replicated_records import (
    Item,
    ReplicaOffset,
    ReplicatedRecord,
)


class Head(NamedTuple):
    """The end of a writer's records in this log."""

    seq: int
    chain: bytes


class RecordIdentity(NamedTuple):
    """The fields that tell one stored record from another."""

    digest: bytes
    chain: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """Records are missing between the end in this log and those that came; they must be sent
    again."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"records {self.first} to {self.last} have not come"


@dataclass(frozen=True, slots=True)
class Divergence:
    """Records differ from this log's, or do not continue them; nothing after them is appended."""

    problem: str

    def __str__(self) -> str:
        return self.problem


Finding = Gap | Divergence


@dataclass(frozen=True, slots=True)
class AppendPlan:
    """The plan for some items of one writer.

    Args:
        rows: stored rows to append, in order.
        head: end of the writer's records after the append.
        offset: last offset among the items that matches the writer's place here; None if none
            matches.
        finding: reason why the walk stopped before the last item; None if it reached the end.
        repeated: number of items whose records were here already, unchanged.
    """

    rows: tuple[tuple[Any, ...], ...]
    head: Head
    offset: ReplicaOffset | None
    finding: Finding | None
    repeated: int


def append_plan(
    writer: str,
    head: Head,
    items: Iterable[Item],
    known: Mapping[int, RecordIdentity],
    erased: Set[int] = frozenset(),
) -> AppendPlan:
    """The plan for a writer's items: those that continue its records in this log, up to the first
    that does not.

    An offset counts if it is about the place that was just reached. One about an earlier place is
    out of date, or comes from a log that lost its end.

    Args:
        items: the writer's items in the order in which they arrived.
        known: number → record, for those records of `items` that this log has already.
        erased: numbers of the writer's records whose erasure is on record here. A record outside
            this set that arrives without its payload is requested again.
    """
    places = dict(known)
    rows: list[tuple[Any, ...]] = []
    offset: ReplicaOffset | None = None
    repeated = 0
    finding: Finding | None = None
    for item in items:
        finding = _finding(writer, head, item, places, erased)
        if finding is not None:
            break
        match item:
            case ReplicatedRecord() if item.seq > head.seq:
                rows.append(item.row())
                places[item.seq] = RecordIdentity(item.digest, item.chain)
                head = Head(item.seq, item.chain)
            case ReplicatedRecord():
                repeated += 1
            case ReplicaOffset() if item.seq == head.seq:
                offset = item
    return AppendPlan(tuple(rows), head, offset, finding, repeated)


def _finding(
    writer: str, head: Head, item: Item, places: Mapping[int, RecordIdentity], erased: Set[int]
) -> Finding | None:
    if isinstance(item, ReplicaOffset):
        if item.seq > head.seq:
            return Gap(head.seq + 1, item.seq)
        if item.seq == head.seq and item.chain != head.chain:
            return Divergence(f"record {item.seq} of writer {writer} differs from the one here")
        return None
    if item.seq > head.seq + 1:
        return Gap(head.seq + 1, item.seq - 1)
    if item.seq <= head.seq:
        if places.get(item.seq) == RecordIdentity(item.digest, item.chain):
            return None
        return Divergence(f"record {item.seq} of writer {writer} differs from the one here")
    if item.payload is None and item.seq not in erased:
        return Gap(item.seq, item.seq)
    problem = next(Chain(writer, *head).follow([item.row()]), None)
    return None if problem is None else Divergence(problem)
