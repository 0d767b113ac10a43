"""The point-in-time join: for each request, the features that serving could have read then.

It is DuckDB's ASOF join, made on the time a row became available and not on the row's own time:
equal to Feast's get_historical_features(filter_by_created_timestamp=True) as long as rows became
available in the order of their event times. If snapshots did not, the join would be wrong without
any sign, so late ones raise. Rows of external views may come late: see `external.joining`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import duckdb
import pyarrow as pa

from mlplatform.learning.features.external import point_in_time_join
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.online import CREATED, EVENT_TIMESTAMP
from mlplatform.learning.features.windows.training import with_windows
from mlplatform.model.features.views import FeatureView, quote, request_views
from mlplatform.runtime.errors import InputInvalid

THREADS = 2


def training_join(
    offline: OfflineTable, views: Sequence[FeatureView], events: pa.Table
) -> pa.Table:
    """The result of `view_join`, with every window of the model.

    Args:
        events: rows with `event_time` and the views' join keys; other columns are kept. If the
            model has windows, they are requests of the offline table, with `request_id`.

    Raises:
        InputInvalid: for the same reasons as in `view_join`.
    """
    return with_windows(offline, view_join(offline, views, events))


def view_join(offline: OfflineTable, views: Sequence[FeatureView], events: pa.Table) -> pa.Table:
    """The events, in their order, with every feature of the views; null if no row was valid.

    A row is valid for its view's ttl, both bounds included, as in the online store.

    Args:
        events: rows with `event_time` and the views' join keys; other columns are kept.

    Raises:
        InputInvalid: a snapshot became available before its own time, or after a later one.
    """
    files = {
        v.name: offline.snapshot_folder(v.name).glob("*.parquet") for v in request_views(views)
    }
    with duckdb.connect(":memory:", config={"threads": THREADS}) as db:
        db.execute("SET enable_progress_bar=false")
        db.register("events", events)
        served: dict[str, int] = {}
        for view in views:
            if view.external is not None:
                parts = offline.external(view.name).served_parts()
                if (from_ms := point_in_time_join.served_from_ms(parts)) is not None:
                    point_in_time_join.create_relations(db, view, parts)
                    served[view.name] = from_ms
                continue
            paths = sorted(str(f) for f in files[view.name])
            rows = _rows(db, view, paths) if paths else db.from_arrow(_no_rows(view))
            rows.create_view(view.name)
            _refuse_late(db, view)
        joined: pa.Table = db.sql(_join_sql(events.column_names, views, served)).to_arrow_table()
    return joined


def _rows(
    db: duckdb.DuckDBPyConnection, view: FeatureView, paths: Sequence[str]
) -> duckdb.DuckDBPyRelation:
    """All snapshots of a view, with null for features that were declared later."""
    rows = db.read_parquet(list(paths), union_by_name=True)
    lacking = [name for name in view.feature_names if name not in rows.columns]
    return rows.project(", ".join(["*", *(f"CAST(NULL AS DOUBLE) AS {quote(n)}" for n in lacking)]))


def _no_rows(view: FeatureView) -> pa.Table:
    time = pa.timestamp("us")
    features = [(name, pa.float64()) for name in view.feature_names]
    head: list[tuple[str, pa.DataType]] = [
        (view.join_key, pa.int64()),
        (EVENT_TIMESTAMP, time),
        (CREATED, time),
    ]
    return pa.schema([*head, *features]).empty_table()


def _refuse_late(db: duckdb.DuckDBPyConnection, view: FeatureView) -> None:
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


def _join_sql(
    columns: Sequence[str], views: Sequence[FeatureView], served: Mapping[str, int]
) -> str:
    """
    Args:
        served: external view with rows → event time from which on it is served, epoch milliseconds.
    """
    kept = [f'events_."{name}"' for name in columns]
    features: list[str] = []
    joins: list[str] = []
    for view in views:
        oldest = f"events_.event_time - INTERVAL {view.ttl_ms} MILLISECOND"
        if view.external is None:
            features += [
                f"CASE WHEN {view.name}_.{EVENT_TIMESTAMP} >= {oldest}"
                f" THEN {view.name}_.{quote(name)} END AS {quote(name)}"
                for name in view.feature_names
            ]
            joins.append(
                f"ASOF LEFT JOIN {_newest_sql(view)} {view.name}_ ON events_.{view.join_key} ="
                f" {view.name}_.{view.join_key} AND events_.event_time >= {view.name}_.{CREATED}"
            )
        elif view.name in served:
            more, values = point_in_time_join.join_sql(view, served[view.name], oldest)
            joins += more
            features += values
        else:
            features += [f"CAST(NULL AS DOUBLE) AS {quote(n)}" for n in view.feature_names]
            features.append(f"FALSE AS {point_in_time_join.row_name(view.name)}")
    return (
        f"SELECT {', '.join([*kept, *features])}"
        " FROM (SELECT *, row_number() OVER () AS row_ FROM events) events_ "
        + " ".join(joins)
        + " ORDER BY events_.row_"
    )


def _newest_sql(view: FeatureView) -> str:
    """SQL for the row with the latest time among an entity's rows that became available
    together."""
    return (
        f"(SELECT * FROM {view.name} QUALIFY row_number() OVER"
        f" (PARTITION BY {view.join_key}, {CREATED} ORDER BY {EVENT_TIMESTAMP} DESC) = 1)"
    )
