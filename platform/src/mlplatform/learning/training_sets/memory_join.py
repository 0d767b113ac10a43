"""The point-in-time join with snapshot rows that fit into memory, which are sorted once.

It follows the rule of the ASOF join in `join`, which is for any number of rows.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlplatform.learning.features.online import CREATED, EVENT_TIMESTAMP
from mlplatform.learning.features.rows import TIME
from mlplatform.model.definition import EVENT_TIME
from mlplatform.model.features.views import FeatureView
from mlplatform.runtime.units import DAY_MS

MOST_VALUES: Final = 8_000_000
"""Most values of a view's features that are joined in memory: 64 MB as float64."""
MOST_KEPT_VALUES: Final = 2 * MOST_VALUES
"""Most values of all views together that are kept for later events."""
_NO_ROW: Final = -1


class HeldRows:
    """Rows of a view's snapshots, sorted by entity and by the time they became available.

    Args:
        rows: `join_key`, `event_timestamp`, `created` and the features, in any order.
    """

    def __init__(self, view: FeatureView, rows: pa.Table) -> None:
        rows = rows.combine_chunks()
        self._view, self.schema = view, rows.schema
        self._features = _without_negative_zeros(rows.select(list(view.feature_names)))
        self._rows_us = _us(rows, EVENT_TIMESTAMP)
        entities: Any = rows.column(view.join_key).combine_chunks().dictionary_encode()
        self._entities: pa.Array[Any] = entities.dictionary
        self._entity_of_row = entities.indices.to_numpy().astype(np.int64)
        self._times, rank = np.unique(_us(rows, CREATED), return_inverse=True)
        # One number for an entity and a time. An entity's rows have its numbers from 1 on.
        codes = self._entity_of_row * self._span + rank + 1
        self._order = np.lexsort((self._rows_us, codes))
        self._codes = codes[self._order]

    @property
    def values(self) -> int:
        """The number of values that are held."""
        return self._features.num_rows * self._features.num_columns

    def joined(self, events: pa.Table) -> pa.Table:
        """The features for each event, in the events' order; null where no row was valid.

        Args:
            events: `event_time` and the join key, for which `is_comparable`.
        """
        event_us = _us(events, EVENT_TIME)
        place = self._newest_available(events.column(self._view.join_key), event_us)
        oldest_us = event_us - self._view.ttl_ms * 1000
        is_valid = place != _NO_ROW
        is_valid[is_valid] = self._rows_us[place[is_valid]] >= oldest_us[is_valid]
        taken: pa.Array[Any] = pa.array(place, mask=~is_valid)
        return self._features.take(taken)

    @property
    def _span(self) -> int:
        return len(self._times) + 1

    def _newest_available(
        self, keys: pa.ChunkedArray[Any], event_us: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The position of each event's row, or `_NO_ROW`: of its entity's rows the one that became
        available last by then, of several together the one with the latest event time."""
        if not len(self._order):
            return np.full(len(event_us), _NO_ROW)
        found: Any = pc.index_in(keys, value_set=self._entities)
        entity = found.fill_null(_NO_ROW).to_numpy().astype(np.int64)
        wanted = entity * self._span + np.searchsorted(self._times, event_us, side="right")
        last = np.searchsorted(self._codes, wanted, side="right") - 1
        place = self._order[np.maximum(last, 0)]
        is_there = (last >= 0) & (self._entity_of_row[place] == entity)
        return np.where(is_there, place, _NO_ROW)


class KeptRows:
    """Held rows of some views, for events that come in parts.

    Rows of a view are read for whole days of event times, and again for events of other days. A
    snapshot that is written meanwhile for the same days is not seen.
    """

    def __init__(self) -> None:
        self._held: dict[str, tuple[int, int, HeldRows]] = {}

    def get(self, view: FeatureView, events: pa.Table) -> HeldRows | None:
        """The rows, if they are kept for the days of all events."""
        if view.name not in self._held:
            return None
        first_us, until_us, held = self._held[view.name]
        if not is_comparable(view, held.schema, events):
            return None
        from_us, to_us = days_us(events)
        return held if first_us <= from_us and to_us <= until_us else None

    def keep(self, view: FeatureView, events: pa.Table, held: HeldRows) -> None:
        """Keep the rows for later events; if there are too many, those of other views go."""
        kept = sum(one.values for name, (*_, one) in self._held.items() if name != view.name)
        if kept + held.values > MOST_KEPT_VALUES:
            self._held.clear()
        self._held[view.name] = (*days_us(events), held)


def days_us(events: pa.Table) -> tuple[int, int]:
    """The whole days of UTC that hold the times of some events: first and last microsecond of the
    epoch."""
    times = _us(events, EVENT_TIME)
    length_us = DAY_MS * 1000
    first, last = int(times.min()) // length_us, int(times.max()) // length_us
    return first * length_us, (last + 1) * length_us - 1


def is_comparable(view: FeatureView, rows: pa.Schema, events: pa.Table) -> bool:
    """Whether the keys and times of both sides are of the same types, and there are events, each
    with a time."""
    key, times = view.join_key, events.column(EVENT_TIME)
    kinds = {rows.field(CREATED).type, rows.field(EVENT_TIMESTAMP).type, times.type}
    has_key = events.schema.field(key).type == rows.field(key).type
    return kinds == {TIME} and has_key and bool(len(times)) and not times.null_count


def _without_negative_zeros(table: pa.Table) -> pa.Table:
    """Replace -0.0 by 0.0, as DuckDB's ASOF join does."""
    for place, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            zero: Any = pa.scalar(0.0, field.type)
            table = table.set_column(place, field, pc.add(table.column(place), zero))
    return table


def _us(table: pa.Table, name: str) -> NDArray[np.int64]:
    """Times as microseconds of the epoch."""
    return table.column(name).cast(pa.int64()).to_numpy()
