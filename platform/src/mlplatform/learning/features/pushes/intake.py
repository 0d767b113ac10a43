"""Transfer of pushed rows into training's table, as parts beside those of imports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import pyarrow as pa

from mlplatform.learning.features.external.columns import VALUES, ExternalColumns
from mlplatform.learning.features.external.table_import import add_served
from mlplatform.learning.features.external_parts import ClientPushes, ExternalParts, PartNote
from mlplatform.learning.features.online import OnlineWriter
from mlplatform.learning.features.pushes.journal import KeptPush, Pushes
from mlplatform.learning.features.pushes.serving import serve
from mlplatform.learning.features.pushes.sql import PAGE
from mlplatform.model.features.views import FeatureView
from mlplatform.runtime.units import MINUTE_MS

MOST_PUSHES: Final = 100_000
"""Most pushes of one part; further ones make another part."""
MARKED: Final = 1_000
"""Most pushes that one transaction marks as taken; new pushes wait for it."""


def take_pushed(
    pushes: Pushes,
    columns: ExternalColumns,
    model: str,
    parts: ExternalParts,
    online: OnlineWriter,
    clock_ms: Callable[[], int],
) -> int:
    """Give training's table the rows that were pushed to a view before. Returns their number.

    Rows that the online store lacks, because the process that took them died, are given to it
    first. If this is killed at any point, the next call does the rest: rows that are there are not
    added again. Pushes that come meanwhile are left for the next call.

    Raises:
        Unavailable: the journal or the online store does not answer; the rest is done later.
    """
    count, last = 0, pushes.last(model, columns.view.name)
    while numbers := _plan(pushes, columns.view, model, online, clock_ms, last):
        for group in numbers.values():
            batches = _batches(pushes, columns, model, group)
            count += add_served(columns, batches, parts, _note(group), online)
            for start in range(0, len(group), MARKED):
                marked = [push.number for push in group[start : start + MARKED]]
                pushes.mark_taken(model, columns.view.name, marked, clock_ms())
    return count


class _PushSummary:
    """A push without its rows."""

    __slots__ = ("arrived_ms", "client", "counts_ms", "number", "rows")

    def __init__(self, kept: KeptPush) -> None:
        self.number, self.client = kept.number, kept.push.client
        self.arrived_ms, self.counts_ms = kept.arrived_ms, kept.counts_ms
        self.rows = len(kept.push.rows)


def _plan(
    pushes: Pushes,
    view: FeatureView,
    model: str,
    online: OnlineWriter,
    clock_ms: Callable[[], int],
    last: int,
) -> dict[int, list[_PushSummary]]:
    """The pushes up to the last one, grouped into parts: all that counted at once, and late ones by
    the minute."""
    found: dict[int, list[_PushSummary]] = defaultdict(list)
    after, count = 0, 0
    while count < MOST_PUSHES:
        found_page = pushes.waiting(model, view.name, after=after, most=PAGE)
        page = [kept for kept in found_page if kept.number <= last]
        for kept in page:
            if kept.served_ms is None:
                kept = serve(pushes, view, kept, online, clock_ms)
            planned = _PushSummary(kept)
            is_late = planned.counts_ms > planned.arrived_ms
            found[planned.counts_ms // MINUTE_MS if is_late else -1].append(planned)
        if not page:
            break
        after, count = page[-1].number, count + len(page)
    return found


def _note(group: Sequence[_PushSummary]) -> PartNote:
    by_client: dict[str, list[_PushSummary]] = defaultdict(list)
    for push in group:
        by_client[push.client].append(push)
    is_late = group[0].counts_ms > group[0].arrived_ms
    times_ms = [push.counts_ms for push in group]
    return PartNote(
        taken_ms=max(times_ms) if is_late else min(times_ms),
        pushed={
            client: ClientPushes(
                pushes=len(own),
                rows=sum(push.rows for push in own),
                first_ms=min(push.arrived_ms for push in own),
                last_ms=max(push.arrived_ms for push in own),
            )
            for client, own in sorted(by_client.items())
        },
    )


def _batches(
    pushes: Pushes, columns: ExternalColumns, model: str, group: Sequence[_PushSummary]
) -> Iterator[pa.RecordBatch]:
    wanted, after = {push.number for push in group}, group[0].number - 1
    last = group[-1].number
    while after < last:
        page = pushes.waiting(model, columns.view.name, after=after, most=PAGE)
        if not page:
            return
        yield from _batch(columns, [kept for kept in page if kept.number in wanted])
        after = page[-1].number


def _batch(columns: ExternalColumns, kept: Sequence[KeptPush]) -> Iterator[pa.RecordBatch]:
    rows = [row for push in kept for row in push.features(columns.view)]
    if not rows:
        return
    keys, events, made, values = zip(*rows, strict=True)
    cells: list[Any] = []
    for place, field in enumerate(columns.view.fields):
        convert: Any = {"float64": float, "int64": int, "bool": bool}[field.dtype]
        column = [None if row[place] is None else convert(row[place]) for row in values]
        cells.append(pa.array(column, VALUES[field.dtype]))
    arrays = [
        pa.array(keys, columns.schema.field(0).type),
        *(pa.array(times, pa.int64()).cast(pa.timestamp("us")) for times in (events, made)),
        *cells,
    ]
    yield pa.RecordBatch.from_arrays(arrays, schema=columns.schema)
