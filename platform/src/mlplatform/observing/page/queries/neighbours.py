"""Decisions beside one decision in time: of the same customer, and of the same model."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from mlplatform.decisions.records.port import RecordQuery
from mlplatform.decisions.records.record import ANSWERED
from mlplatform.observing.page.queries.search import MOST_OF_WINDOW, SHOWN
from mlplatform.runtime.units import HOUR_MS

EACH_SIDE: Final = 5
WIDTHS_MS: Final = (1_000, 8_000, 64_000, 512_000, HOUR_MS)
"""Times to either side that are read for a model, one after another, until enough was found."""
WIDTHS_OF_UNIT_MS: Final = (6 * HOUR_MS, 48 * HOUR_MS)
"""The same for a customer, whose decisions are rarer."""
BUDGET_S: Final = 0.08
"""Seconds after which no further time is read."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a decision in the order of event time."""

    event_ms: int
    writer: str
    seq: int


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The nearest decisions on either side, newest first.

    Args:
        within_ms: time to either side that was read.
    """

    before: tuple[Mapping[str, Any], ...]
    after: tuple[Mapping[str, Any], ...]
    within_ms: int

    @property
    def found(self) -> bool:
        return bool(self.before or self.after)


@dataclass(frozen=True, slots=True)
class DecisionNeighbours:
    """The decisions beside one in time.

    Args:
        of_unit: those of the same customer; None if the decision has no customer.
        unit: pseudonym of the customer.
    """

    of_unit: Neighbours | None
    of_model: Neighbours
    unit: int | None


def neighbours(
    read: Callable[[RecordQuery], pa.Table],
    model: str,
    place: Place,
    unit: int | None = None,
    *,
    budget_s: float = BUDGET_S,
    clock: Callable[[], float] = time.monotonic,
) -> Neighbours:
    """At most `EACH_SIDE` decisions before and after a place, within a bound of time.

    A longer time is read only if it can be within the budget, and only while too few decisions were
    found. One that holds too many records is not read again: the shorter one before it stands.

    Args:
        unit: pseudonym of a customer; None for all decisions of the model.
    """
    widths = WIDTHS_MS if unit is None else WIDTHS_OF_UNIT_MS
    found = Neighbours((), (), 0)
    begun_s, before_s, last_ms = clock(), 0.0, 0
    for width_ms in widths:
        if last_ms and before_s * width_ms / last_ms > budget_s - (clock() - begun_s):
            break
        from_s = clock()
        query = RecordQuery(
            model=model, kinds=ANSWERED, from_ms=max(place.event_ms - width_ms, 0),
            to_ms=place.event_ms + width_ms + 1, unit=unit, limit=MOST_OF_WINDOW, columns=SHOWN,
        )  # fmt: skip
        table = read(query)
        if _is_crowded(table):
            break
        found = _nearest(table.to_pylist(), place, width_ms)
        if min(len(found.before), len(found.after)) >= EACH_SIDE:
            break
        before_s, last_ms = clock() - from_s, width_ms
    return found


def _is_crowded(table: pa.Table) -> bool:
    if len(table) < MOST_OF_WINDOW:
        return False
    return max(Counter(table.column("writer").to_pylist()).values()) >= MOST_OF_WINDOW


def _nearest(rows: Sequence[Mapping[str, Any]], place: Place, within_ms: int) -> Neighbours:
    own = _key(place.event_ms, place.writer, place.seq)
    keyed = sorted(
        ((_key(row["event_ms"], row["writer"], row["seq"]), row) for row in rows),
        key=lambda pair: pair[0],
        reverse=True,
    )
    after = [row for key, row in keyed if key > own][-EACH_SIDE:]
    before = [row for key, row in keyed if key < own][:EACH_SIDE]
    return Neighbours(tuple(before), tuple(after), within_ms)


def _key(event_ms: int, writer: str, seq: int) -> tuple[int, str, int]:
    return event_ms, writer, seq
