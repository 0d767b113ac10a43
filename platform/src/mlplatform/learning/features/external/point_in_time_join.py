"""The point-in-time join of external views: which row of a view was known when.

For each entity, serving holds the row with the latest event time among the rows that it was given;
among several with one event time, the row that became known last. Training must join the same row,
so a row counts from the time when it was both known and imported. Before the view was served at
all, nothing could differ from serving, and a row counts from when it was known. So the past of a
table can be used for training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlplatform.learning.features.external.columns import VALUES
from mlplatform.learning.features.external_parts import TAKEN, ExternalParts, Part
from mlplatform.learning.features.online import CREATED, EVENT_TIMESTAMP
from mlplatform.learning.features.rows import declared_columns
from mlplatform.model.features.views import FeatureView, quote

NEVER_MS: Final = -(2**62)
COUNTS: Final = "counts_"
"""Name of the column with the time from which a row counts."""
BEFORE, SINCE = "before_", "since_"


def served_from_ms(parts: Sequence[Part]) -> int | None:
    """Since when the view is served, in epoch milliseconds; None if it never was."""
    return min((part.taken_ms for part in parts), default=None)


def create_relations(db: duckdb.DuckDBPyConnection, view: FeatureView) -> None:
    """Create the views `<view>before_` and `<view>since_`: each entity's rows that were its newest,
    with the time since which each was.

    The view's rows are in a relation `<view>every_`, the events in a relation `events`, by the
    view's join key.
    """
    wanted = f"SELECT * FROM {every_name(view)} SEMI JOIN events USING ({quote(view.join_key)})"
    for name, counts in ((BEFORE, CREATED), (SINCE, f"greatest({CREATED}, {TAKEN})")):
        db.execute(f"CREATE VIEW {view.name}{name} AS {_newest(view, wanted, counts)}")


def every_name(view: FeatureView) -> str:
    """Name of the relation with all rows of a view."""
    return f"{view.name}every_"


def every_row(
    db: duckdb.DuckDBPyConnection, view: FeatureView, parts: Sequence[Part]
) -> duckdb.DuckDBPyRelation:
    """All rows of these parts, with `TAKEN`, and with null for features that were declared
    later."""
    rows = db.sql(" UNION ALL BY NAME ".join(f"({part.rows_sql})" for part in parts))
    return rows.project(", ".join([*row_columns(view, rows.columns), TAKEN]))


def row_columns(view: FeatureView, columns: Sequence[str]) -> list[str]:
    """SQL of the key, the times and the features in rows that have these columns."""
    features = pa.schema([(field.name, VALUES[field.dtype]) for field in view.fields])
    head = [quote(view.join_key), EVENT_TIMESTAMP, CREATED]
    return [*head, *declared_columns(columns, features)]


# The order in which rows replace each other: by event time, then by availability. Both are below
# 2**33 s, and pushed rows have availability in milliseconds.
RANK: Final = (
    f"(CAST(epoch_ms({EVENT_TIMESTAMP}) AS HUGEINT) * {2**43}"
    f" + CAST(epoch_ms({CREATED}) AS HUGEINT))"
)


def _newest(view: FeatureView, rows: str, counts: str) -> str:
    """Rows of each key that ranked above every earlier one; of rows that count from the same time,
    the highest-ranked."""
    key = quote(view.join_key)
    return (
        f"SELECT * FROM (SELECT *, max(rank_) OVER (PARTITION BY {key} ORDER BY {COUNTS}, rank_"
        " ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS best_"
        f" FROM (SELECT *, {counts} AS {COUNTS}, {RANK} AS rank_ FROM ({rows})))"
        " WHERE best_ IS NULL OR rank_ > best_"
        f" QUALIFY row_number() OVER (PARTITION BY {key}, {COUNTS} ORDER BY rank_ DESC) = 1"
    )


def row_name(view: str) -> str:
    """Name of the column that says whether a request had a valid row of a view, with values or
    without. No request field begins like it."""
    return f"_{view}_row"


def join_sql(view: FeatureView, from_ms: int, ttl_sql: str) -> tuple[list[str], list[str]]:
    """Joins, and expressions of the features and of `row_name`, for `events_`.

    Args:
        from_ms: event time from which on the view is served, epoch milliseconds.
        ttl_sql: SQL of `events_.event_time` minus the view's ttl.
    """
    key = quote(view.join_key)
    joins = [
        f"ASOF LEFT JOIN {view.name}{name} ON events_.{key} ="
        f" {view.name}{name}.{key} AND events_.event_time >= {view.name}{name}.{COUNTS}"
        for name in (BEFORE, SINCE)
    ]

    def valid(name: str, feature: str) -> str:
        relation = f"{view.name}{name}"
        value = f"{relation}.{quote(feature)}"
        return f"CASE WHEN {relation}.{EVENT_TIMESTAMP} >= {ttl_sql} THEN {value} END"

    features = [
        f"CASE WHEN events_.event_time < epoch_ms({from_ms}) THEN {valid(BEFORE, name)}"
        f" ELSE {valid(SINCE, name)} END AS {quote(name)}"
        for name in view.feature_names
    ]
    start = f"CASE WHEN events_.event_time < epoch_ms({from_ms})"
    held = [
        f"coalesce({view.name}{n}.{EVENT_TIMESTAMP} >= {ttl_sql}, FALSE)" for n in (BEFORE, SINCE)
    ]
    return joins, [*features, f"{start} THEN {held[0]} ELSE {held[1]} END AS {row_name(view.name)}"]


def newest_ms(parts: ExternalParts, event_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """The latest event time of any row that counted at each time; `NEVER_MS` where none
    did."""
    served = parts.served_parts()
    from_ms = served_from_ms(served)
    if from_ms is None:
        return np.full(len(event_ms), NEVER_MS)
    before, since = (_steps(served, is_taken=is_taken) for is_taken in (False, True))
    return np.where(event_ms < from_ms, _at(before, event_ms), _at(since, event_ms))


_Steps = tuple[NDArray[np.int64], NDArray[np.int64]]


def _steps(parts: Sequence[Part], *, is_taken: bool) -> _Steps:
    found: dict[int, int] = {}
    with duckdb.connect(":memory:", config={"threads": 2}) as db:
        for part in parts:
            counts = f"greatest({CREATED}, {TAKEN})" if is_taken else CREATED
            rows = db.execute(
                f"SELECT epoch_ms({counts}), max(epoch_ms({EVENT_TIMESTAMP}))"
                f" FROM ({part.rows_sql}) GROUP BY 1"
            ).fetchall()
            for counts_ms, event_ms in rows:
                found[counts_ms] = max(found.get(counts_ms, event_ms), event_ms)
    times = np.array(sorted(found), np.int64)
    newest = np.array([found[int(at)] for at in times], np.int64)
    return times, np.maximum.accumulate(newest)


def _at(steps: _Steps, event_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    times, newest = steps
    place = np.searchsorted(times, event_ms, side="right") - 1
    return np.where(place >= 0, newest[np.maximum(place, 0)], NEVER_MS)
