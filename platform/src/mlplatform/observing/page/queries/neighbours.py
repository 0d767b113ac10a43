"""Decisions beside one decision in time: of the same customer, and of the same model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from mlplatform.decisions.records.port import RecordQuery
from mlplatform.decisions.records.record import ANSWERED
from mlplatform.observing.page.queries.search import MOST_OF_WINDOW, SHOWN
from mlplatform.runtime.units import DAY_MS, HOUR_MS, MINUTE_MS

EACH_SIDE: Final = 5
SHORT_MS: Final = 200
MIDDLE_MS: Final = MINUTE_MS
LONG_MS: Final = HOUR_MS
"""Times to either side that are read for a model: the middle one, then a shorter one if that holds
too many records, or a longer one if it holds too few. A read has a cost of its own, whatever it
finds."""
OF_UNIT_MS: Final = DAY_MS
"""Time to either side that is read for a customer."""


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
    read: Callable[[RecordQuery], pa.Table], model: str, place: Place, unit: int | None = None
) -> Neighbours:
    """At most `EACH_SIDE` decisions before and after a place, by at most two bounded reads.

    Args:
        unit: pseudonym of a customer; None for all decisions of the model.
    """
    nothing = Neighbours((), (), 0)
    if unit is not None:
        return _within(read, model, place, unit, OF_UNIT_MS) or nothing
    found = _within(read, model, place, None, MIDDLE_MS)
    if found is None:
        return _within(read, model, place, None, SHORT_MS) or nothing
    if min(len(found.before), len(found.after)) >= EACH_SIDE:
        return found
    return _within(read, model, place, None, LONG_MS) or found


def _within(
    read: Callable[[RecordQuery], pa.Table],
    model: str,
    place: Place,
    unit: int | None,
    within_ms: int,
) -> Neighbours | None:
    """The nearest decisions within a time to either side; None if it holds too many records."""
    query = RecordQuery(
        model=model, kinds=ANSWERED, from_ms=max(place.event_ms - within_ms, 0),
        to_ms=place.event_ms + within_ms + 1, unit=unit, limit=MOST_OF_WINDOW, columns=SHOWN,
    )  # fmt: skip
    table = read(query)
    return None if _is_crowded(table) else _nearest(table.to_pylist(), place, within_ms)


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
