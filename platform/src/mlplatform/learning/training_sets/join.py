"""The point-in-time join: for each request, the features that serving could have read then.

It is made on the time a row became available and not on the row's own time: in memory where few
rows are in reach of the events, else by DuckDB's ASOF join. It is equal to Feast's
get_historical_features(filter_by_created_timestamp=True) as long as rows became
available in the order of their event times. If snapshots did not, the join would be wrong without
any sign, so late ones raise. Rows of external views may come late: see
`external.point_in_time_join`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import duckdb
import pyarrow as pa

from mlplatform.learning.features.external import point_in_time_join
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.online import CREATED, EVENT_TIMESTAMP
from mlplatform.learning.features.windows.bounded_database import bounded_database
from mlplatform.learning.features.windows.training import with_windows
from mlplatform.learning.training_sets import memory_join
from mlplatform.learning.training_sets.memory_join import HeldRows, KeptRows
from mlplatform.model.features.views import FeatureView, quote
from mlplatform.runtime.errors import InputInvalid

THREADS = 2


def training_join(
    offline: OfflineTable,
    views: Sequence[FeatureView],
    events: pa.Table,
    kept: KeptRows | None = None,
) -> pa.Table:
    """The result of `view_join`, with every window of the model.

    Args:
        events: rows with `event_time` and the views' join keys; other columns are kept. If the
            model has windows, they are requests of the offline table, with `request_id`.
        kept: rows of views from earlier parts of the events.

    Raises:
        InputInvalid: for the same reasons as in `view_join`.
    """
    return with_windows(offline, view_join(offline, views, events, kept))


def view_join(
    offline: OfflineTable,
    views: Sequence[FeatureView],
    events: pa.Table,
    kept: KeptRows | None = None,
) -> pa.Table:
    """The events, in their order, with every feature of the views; null if no row was valid.

    A row is valid for its view's ttl, both bounds included, as in the online store.

    Args:
        events: rows with `event_time` and the views' join keys; other columns are kept.
        kept: rows of views from earlier parts of the events.

    Raises:
        InputInvalid: a snapshot became available before its own time, or after a later one.
    """
    keys = sorted({"event_time", *(v.join_key for v in views)})
    kept = KeptRows() if kept is None else kept
    with ExitStack() as until:
        db: duckdb.DuckDBPyConnection | None = None
        for view in views:  # one by one: a join sorts all columns that it passes on
            if (held := kept.get(view, events)) is not None:
                values = held.joined(events)
            else:
                if db is None:
                    keyed = events.select(keys)
                    db = until.enter_context(bounded_database(THREADS))
                    db.register("events", keyed)
                values = _values(db, offline, view, events, kept)
            for name in values.column_names:
                events = events.append_column(values.field(name), values.column(name))
    return events


def _values(
    db: duckdb.DuckDBPyConnection,
    offline: OfflineTable,
    view: FeatureView,
    events: pa.Table,
    kept: KeptRows,
) -> pa.Table:
    """The view's columns for the relation `events`, in its order."""
    if view.external is None:
        if not (paths := snapshot_paths(offline, view)):
            return missing_values(view, len(events))
        snapshot_rows(db, view, paths).create_view(view.name)
        refuse_late(db, view)
        if (held := _held_rows(db, view, events)) is None:
            return snapshot_values(db, view)
        kept.keep(view, events, held)
        return held.joined(events)
    parts = offline.external(view.name).served_parts()
    from_ms = point_in_time_join.served_from_ms(parts)
    if from_ms is None:
        return missing_values(view, len(events))
    rows = point_in_time_join.every_row(db, view, parts)
    rows.create_view(point_in_time_join.every_name(view))
    return external_values(db, view, from_ms)


def _held_rows(
    db: duckdb.DuckDBPyConnection, view: FeatureView, events: pa.Table
) -> HeldRows | None:
    """The rows that events of these days may have, from the relation with the view's name; None if
    they are too many, or if only SQL compares the keys or times of both sides."""
    none = db.sql(f"SELECT * FROM {view.name} LIMIT 0").to_arrow_table()
    if not memory_join.is_comparable(view, none.schema, events):
        return None
    first, last = (f"make_timestamp({us})" for us in memory_join.days_us(events))
    in_reach = f"FROM {view.name} WHERE {in_reach_sql(view, first, last)}"
    (rows,) = db.sql(f"SELECT count(*) {in_reach}").fetchall()[0]
    if int(rows) * len(view.feature_names) > memory_join.MOST_VALUES:
        return None
    return HeldRows(view, db.sql(f"SELECT * {in_reach}").to_arrow_table())


def missing_values(view: FeatureView, count: int) -> pa.Table:
    """The columns of a view without any row, for so many events."""
    columns: dict[str, Any] = {name: pa.nulls(count, pa.float64()) for name in view.feature_names}
    if view.external is not None:
        is_there = pa.array([False], pa.bool_()).take(pa.array([0] * count, pa.int8()))
        columns[point_in_time_join.row_name(view.name)] = is_there
    return pa.table(columns)


def snapshot_paths(offline: OfflineTable, view: FeatureView) -> list[str]:
    """Parquet files of a view's snapshots."""
    return sorted(str(f) for f in offline.snapshot_folder(view.name).glob("*.parquet"))


def snapshot_rows(
    db: duckdb.DuckDBPyConnection, view: FeatureView, paths: Sequence[str]
) -> duckdb.DuckDBPyRelation:
    """The rows of some snapshots of a view, with null for features that were declared later."""
    rows = db.read_parquet(list(paths), union_by_name=True)
    return rows.project(", ".join(point_in_time_join.row_columns(view, rows.columns)))


def snapshot_values(db: duckdb.DuckDBPyConnection, view: FeatureView) -> pa.Table:
    """The view's columns for the relation `events`, in its order, from a relation with the view's
    name."""
    found: pa.Table = db.sql(_snapshots_sql(view)).to_arrow_table()
    return found


def external_values(db: duckdb.DuckDBPyConnection, view: FeatureView, from_ms: int) -> pa.Table:
    """The external view's columns for the relation `events`, in its order, from a relation
    `point_in_time_join.every_name`.

    Args:
        from_ms: event time from which on the view is served, epoch milliseconds.
    """
    point_in_time_join.create_relations(db, view)
    joins, values = point_in_time_join.join_sql(view, from_ms, _oldest_sql(view))
    joined: pa.Table = db.sql(_select_sql(view, joins, values)).to_arrow_table()
    return joined


def refuse_late(db: duckdb.DuckDBPyConnection, view: FeatureView) -> None:
    """Raise for a snapshot in the relation with the view's name that became available too early or
    too late.

    Raises:
        InputInvalid: the message names the snapshot.
    """
    late = db.sql(
        f"SELECT {EVENT_TIMESTAMP}, {CREATED} FROM ("
        f"  SELECT *, max({CREATED}) OVER (ORDER BY {EVENT_TIMESTAMP}"
        "     RANGE BETWEEN UNBOUNDED PRECEDING AND INTERVAL 1 MICROSECOND PRECEDING) AS earlier"
        f"  FROM (SELECT DISTINCT {EVENT_TIMESTAMP}, {CREATED} FROM {view.name}))"
        f" WHERE {CREATED} < {EVENT_TIMESTAMP} OR {CREATED} < earlier"
        f" ORDER BY ALL LIMIT 1"
    ).fetchall()
    for at, available in late:
        problem = f"the snapshot of {at} became available at {available}: before its own time"
        raise InputInvalid(view.name, None, f"{problem}, or before an earlier snapshot did")


def _oldest_sql(view: FeatureView) -> str:
    """SQL of the event time of the oldest row that is valid for an event."""
    return f"events_.event_time - INTERVAL {view.ttl_ms} MILLISECOND"


def _snapshots_sql(view: FeatureView) -> str:
    name, key = view.name, quote(view.join_key)
    values = [
        f"CASE WHEN {name}_.{EVENT_TIMESTAMP} >= {_oldest_sql(view)}"
        f" THEN {name}_.{quote(feature)} END AS {quote(feature)}"
        for feature in view.feature_names
    ]
    join = (
        f"ASOF LEFT JOIN {_newest_sql(view)} {name}_ ON events_.{key} = {name}_.{key}"
        f" AND events_.event_time >= {name}_.{CREATED}"
    )
    return _select_sql(view, [join], values)


def _select_sql(view: FeatureView, joins: Sequence[str], values: Sequence[str]) -> str:
    """SQL of these values for each of `events`, in its order."""
    return (
        f"SELECT {', '.join(values)} FROM (SELECT {quote(view.join_key)}, event_time,"
        f" row_number() OVER () AS row_ FROM events) events_ {' '.join(joins)}"
        " ORDER BY events_.row_"
    )


def _newest_sql(view: FeatureView) -> str:
    """SQL for the row with the latest time among an entity's rows that became available together.

    Rows that no event can have are left out: of other entities, available after the last event, or
    too old for the first one. Most rows are, where the events are those of a few customers.
    """
    key = quote(view.join_key)
    first, last = (f"(SELECT {end}(event_time) FROM events)" for end in ("min", "max"))
    return (
        f"(SELECT * FROM {view.name}"
        f" WHERE {key} IN (SELECT {key} FROM events) AND {in_reach_sql(view, first, last)}"
        f" QUALIFY row_number() OVER"
        f" (PARTITION BY {key}, {CREATED} ORDER BY {EVENT_TIMESTAMP} DESC) = 1)"
    )


def in_reach_sql(view: FeatureView, first: str, last: str) -> str:
    """SQL condition on the rows of a request view that an event from `first` to `last`, both SQL,
    may have: available by the last event, and not too old for the first one."""
    oldest = f"{first} - INTERVAL {view.ttl_ms} MILLISECOND"
    return f"{CREATED} <= {last} AND {EVENT_TIMESTAMP} >= {oldest}"
