"""Windows of past requests, as each was answered with them, or would have been."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.learning.features.arrivals import OWN, positions_sql, ranked_sql
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.windows.bounded_database import bounded_database
from mlplatform.learning.features.windows.sql import windows_sql
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.features.views import quote
from mlplatform.model.windows.ratios import Ratio, ratios_of
from mlplatform.model.windows.tiles import SeriesWindows, series_of

THREADS: Final = 2


@dataclass(frozen=True, slots=True)
class PastWindows:
    """A model's windows over past requests: all of them, or those of the entities with one key.

    Args:
        names: the windows, in the order of model.yaml, ratios included.
    """

    names: tuple[str, ...]
    shared: SeriesWindows
    ratios: tuple[Ratio, ...]

    @classmethod
    def of(cls, definition: ModelDefinition, key: str | None = None) -> PastWindows:
        """The windows of the entities with this key; None: of all entities."""
        entities = definition.entities
        windows = [w for w in definition.windows if key in (None, entities[w.entity])]
        names = tuple(w.name for w in windows)
        return cls(names, series_of(windows, entities), ratios_of(windows))

    @property
    def keys(self) -> list[str]:
        """The request fields that are keys of the entities, in the order of their names."""
        return sorted({series.key for series, _ in self.shared})

    @property
    def reach_ms(self) -> int:
        """How long before a request the requests begin that may count for it, milliseconds."""
        return max(series.retained * series.tile_ms for series, _ in self.shared)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of requests that are read, by name, after `request_id` and `event_time`."""
        found = set()
        for series, _ in self.shared:
            filters = (f for f in (series.where, series.matching) if f is not None)
            found |= {series.key, series.of, series.distinct, *(f.field for f in filters)}
        return ("request_id", "event_time", *sorted(name for name in found if name is not None))

    def counted_sql(self, requests: str) -> str:
        """SQL of the requests that can count: those of entities that an event is of."""
        of_key = (f"{quote(key)} IN (SELECT {quote(key)} FROM events)" for key in self.keys)
        return f"SELECT * FROM {requests} WHERE {' OR '.join(of_key)}"

    def joined_sql(self, first_ms: int) -> str:
        """SQL of the relation `events` with the windows and `row_`, their place, in their order.

        It reads a relation `ranked`, of `ranked_sql` or `ranks_sql`.

        Args:
            first_ms: time of the first event, epoch milliseconds.
        """
        wanted = f"_event_ms >= {first_ms} AND request_id IN (SELECT request_id FROM events)"
        found = windows_sql(self.shared, "ranked", wanted, self.ratios)
        listed = ", ".join(f'f."{name}"' for name in self.names)
        return (
            f"SELECT e.*, {listed} FROM (SELECT *, row_number() OVER () AS row_ FROM events) e"
            f" LEFT JOIN ranked p ON p.request_id = e.request_id LEFT JOIN ({found}) f"
            f" ON f.{OWN[0]} = p.{OWN[0]} ORDER BY e.row_"
        )


def with_windows(offline: OfflineTable, events: pa.Table) -> pa.Table:
    """Requests of the offline table with every window of their model, in their order.

    Each window is what the request's own record says that it was made of, late requests and those
    out of order included. A request for which no windows were read counts as having seen everything
    that became known before it; in history, everything earlier.

    Args:
        events: requests with `request_id` and `event_time`; other columns are kept.
    """
    definition = offline.definition
    if not definition.windows:
        return events
    windows = PastWindows.of(definition)
    if not events.num_rows:
        return without_rows(events, windows.names)
    first_ms = first_event_ms(events)
    requests = offline.every_request(first_ms - windows.reach_ms)
    with bounded_database(THREADS) as db:
        db.register("events", events)
        # What can't count is not kept
        counted = windows.counted_sql(f"(SELECT {quote(*windows.columns)} FROM pieces)")
        _take(db, "requests", requests, counted)
        _take(db, "every_position", offline.arrivals(), positions_sql("pieces"))
        arrived = "SELECT * FROM pieces SEMI JOIN requests USING (request_id)"
        _take(db, "arrivals", offline.arrivals(), arrived)
        ranked = ranked_sql("requests", "arrivals", "every_position")
        db.execute(f"CREATE TEMP TABLE ranked AS {ranked}")
        db.execute("DROP TABLE requests")
        joined: pa.Table = db.sql(windows.joined_sql(first_ms)).to_arrow_table()
    return joined.drop_columns(["row_"])


def first_event_ms(events: pa.Table) -> int:
    """The time of the first event, epoch milliseconds."""
    return int(pc.min(events["event_time"]).cast(pa.timestamp("ms"), safe=False).value)


def without_rows(events: pa.Table, names: Sequence[str]) -> pa.Table:
    """An empty table of events with a column for each window."""
    empty = pa.array([], pa.float64())
    for name in names:
        events = events.append_column(name, empty)
    return events


def _take(
    db: duckdb.DuckDBPyConnection, name: str, rows: duckdb.DuckDBPyRelation, sql: str
) -> None:
    """Create a table of what the SQL makes of these rows, its `pieces`, which are read once."""
    db.register("pieces", rows.to_arrow_reader())
    db.execute(f"CREATE TEMP TABLE {name} AS {sql}")
    db.unregister("pieces")
