"""Decisions beside one decision in time: of the same customer, and of the same model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc

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
OF_UNIT_RECORDS: Final = 150_000
"""Records among which a customer's are looked for: each of their files takes 17 ms."""
OF_UNIT_LEAST_MS: Final = HOUR_MS
OF_UNIT_MOST_MS: Final = 2 * DAY_MS

Order = Literal["ascending", "descending"]


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
        records: number of records in that time.
    """

    before: tuple[Mapping[str, Any], ...]
    after: tuple[Mapping[str, Any], ...]
    within_ms: int
    records: int = 0

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


def neighbours(read: Callable[[RecordQuery], pa.Table], model: str, place: Place) -> Neighbours:
    """At most `EACH_SIDE` decisions of a model before and after a place, by at most two bounded
    reads."""
    found = _within(read, model, place, None, MIDDLE_MS)
    if found is None:
        return _within(read, model, place, None, SHORT_MS) or Neighbours((), (), 0)
    if max(len(found.before), len(found.after)) >= EACH_SIDE:  # the other side ends the log
        return found
    return _within(read, model, place, None, LONG_MS) or found


def neighbours_of_unit(
    read: Callable[[RecordQuery], pa.Table],
    model: str,
    place: Place,
    unit: int,
    of_model: Neighbours,
) -> Neighbours:
    """At most `EACH_SIDE` decisions of one customer before and after a place, by one read.

    Args:
        unit: pseudonym of the customer.
        of_model: what was found of the whole model: the more decisions it makes, the shorter is the
            time that is read.
    """
    within_ms = _time_of_unit(of_model)
    return _within(read, model, place, unit, within_ms) or Neighbours((), (), 0)


def _time_of_unit(of_model: Neighbours) -> int:
    if not of_model.within_ms:
        return OF_UNIT_LEAST_MS
    wanted_ms = OF_UNIT_RECORDS * of_model.within_ms // max(of_model.records, 1)
    return min(max(wanted_ms, OF_UNIT_LEAST_MS), OF_UNIT_MOST_MS)


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
    return None if _is_crowded(table) else _nearest(table, place, within_ms)


def _is_crowded(table: pa.Table) -> bool:
    if len(table) < MOST_OF_WINDOW:
        return False
    return max(Counter(table.column("writer").to_pylist()).values()) >= MOST_OF_WINDOW


def _nearest(table: pa.Table, place: Place, within_ms: int) -> Neighbours:
    writer, seq = pc.field("writer"), pc.field("seq")
    same = pc.field("event_ms") == place.event_ms
    earlier = (writer < place.writer) | ((writer == place.writer) & (seq < place.seq))
    later = (writer > place.writer) | ((writer == place.writer) & (seq > place.seq))
    before = table.filter((pc.field("event_ms") < place.event_ms) | (same & earlier))
    after = table.filter((pc.field("event_ms") > place.event_ms) | (same & later))
    return Neighbours(
        _first(before, "descending"), _first(after, "ascending")[::-1], within_ms, len(table)
    )


def _first(table: pa.Table, order: Order) -> tuple[Mapping[str, Any], ...]:
    ordered = table.sort_by([(name, order) for name in ("event_ms", "writer", "seq")])
    return tuple(ordered.slice(0, EACH_SIDE).to_pylist())
