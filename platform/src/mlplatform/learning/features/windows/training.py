"""Windows of past requests, as each was answered with them, or would have been."""

from __future__ import annotations

from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.learning.features.arrivals import OWN, positions_sql, ranked_sql
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.windows.sql import windows_sql
from mlplatform.model.features.views import quote
from mlplatform.model.windows.ratios import ratios_of
from mlplatform.model.windows.tiles import SeriesWindows, series_of

THREADS: Final = 2


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
    shared = series_of(definition.windows, definition.entities)
    names = [w.name for w in definition.windows]
    if not events.num_rows:
        empty = pa.array([], pa.float64())
        for name in names:
            events = events.append_column(name, empty)
        return events
    first_ms = int(pc.min(events["event_time"]).cast(pa.timestamp("ms"), safe=False).value)
    reach_ms = max(series.retained * series.tile_ms for series, _ in shared)
    requests = offline.every_request(first_ms - reach_ms)
    with duckdb.connect(":memory:", config={"threads": THREADS}) as db:
        db.execute("SET enable_progress_bar=false")
        db.register("events", events)
        # What can't count is not kept: requests of entities that no event is of
        keys = sorted({series.key for series, _ in shared})
        same = " OR ".join(f"{quote(key)} IN (SELECT {quote(key)} FROM events)" for key in keys)
        columns = quote("request_id", "event_time", *_fields(shared))
        _take(db, "requests", requests, f"SELECT {columns} FROM pieces WHERE {same}")
        _take(db, "every_position", offline.arrivals(), positions_sql("pieces"))
        arrived = "SELECT * FROM pieces SEMI JOIN requests USING (request_id)"
        _take(db, "arrivals", offline.arrivals(), arrived)
        ranked = ranked_sql("requests", "arrivals", "every_position")
        db.execute(f"CREATE TEMP TABLE ranked AS {ranked}")
        db.execute("DROP TABLE requests")
        wanted = f"_event_ms >= {first_ms} AND request_id IN (SELECT request_id FROM events)"
        found = windows_sql(shared, "ranked", wanted, ratios_of(definition.windows))
        listed = ", ".join(f'f."{name}"' for name in names)
        joined: pa.Table = db.sql(
            f"SELECT e.*, {listed} FROM (SELECT *, row_number() OVER () AS row_ FROM events) e"
            f" LEFT JOIN ranked p ON p.request_id = e.request_id LEFT JOIN ({found}) f"
            f" ON f.{OWN[0]} = p.{OWN[0]} ORDER BY e.row_"
        ).to_arrow_table()
    return joined.drop_columns(["row_"])


def _fields(shared: SeriesWindows) -> tuple[str, ...]:
    """The request fields that the series read."""
    found = set()
    for series, _ in shared:
        filters = (f for f in (series.where, series.matching) if f is not None)
        found |= {series.key, series.of, series.distinct, *(f.field for f in filters)}
    return tuple(sorted(name for name in found if name is not None))


def _take(
    db: duckdb.DuckDBPyConnection, name: str, rows: duckdb.DuckDBPyRelation, sql: str
) -> None:
    """Create a table of what the SQL makes of these rows, its `pieces`, which are read once."""
    db.register("pieces", rows.to_arrow_reader())
    db.execute(f"CREATE TEMP TABLE {name} AS {sql}")
    db.unregister("pieces")
