"""The training join on Apache Spark, for histories that one machine takes too long to join.

A request's features depend on the rows of its own entities alone. So Spark reads the files, brings
the rows of each bucket of keys together, and repeats what a lost machine had done; each bucket is
joined by the SQL that DuckDB runs on one machine. There is one home for each rule, and the rows are
the same. Executors read the offline table's folder at the path that it has here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from mlplatform.learning.features.arrivals import ranks_sql
from mlplatform.learning.features.external import point_in_time_join
from mlplatform.learning.features.external.columns import VALUES
from mlplatform.learning.features.external_parts import TAKEN, Part
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.online import CREATED, EVENT_TIMESTAMP
from mlplatform.learning.features.rows import TIME
from mlplatform.learning.features.windows.training import PastWindows, first_event_ms
from mlplatform.learning.training_sets.join import (
    external_values,
    in_reach_sql,
    missing_values,
    refuse_late,
    snapshot_paths,
    snapshot_rows,
    snapshot_values,
    training_join,
)
from mlplatform.learning.training_sets.spark_buckets import (
    Join,
    connection,
    file_rows,
    joined_buckets,
    row_count,
)
from mlplatform.learning.training_sets.spark_requests import known_arrivals, past_requests
from mlplatform.learning.training_sets.spark_session import cause_of, spark_session
from mlplatform.model.features.views import FeatureView
from mlplatform.runtime.errors import JobFailed

BUCKET_ROWS: Final = 500_000
"""Rows that are joined at a time: some hundred MB in a Python process of an executor."""
EVENT: Final = "_event"
"""Column of an event's place among the events; no request field begins like it."""


class SparkJoin:
    """A `TrainingJoin` by Apache Spark.

    Args:
        session: opens a session of Spark for one join.
        bucket_rows: rows, of events and of their features' past, that are joined at a time.
    """

    def __init__(
        self,
        session: Callable[[], AbstractContextManager[SparkSession]] = spark_session,
        bucket_rows: int = BUCKET_ROWS,
    ) -> None:
        self._session = session
        self._bucket_rows = bucket_rows

    def __call__(
        self, offline: OfflineTable, views: Sequence[FeatureView], events: pa.Table
    ) -> pa.Table:
        if not events.num_rows:  # nothing to bring together
            return training_join(offline, views, events)
        with self._session() as spark, _problems():
            table = OfflineTable(offline.folder, offline.definition)  # tasks get no open database
            join = _EventJoin(spark, table, events, self._bucket_rows)
            columns = [*map(join.view, views), join.windows()]
        for values in columns:  # in the events' order
            for name in values.column_names:
                events = events.append_column(values.field(name), values.column(name))
        return events


class _EventJoin:
    """The events of one join, and the columns that they get from one view or from all windows."""

    def __init__(
        self, spark: SparkSession, offline: OfflineTable, events: pa.Table, bucket_rows: int
    ) -> None:
        self._spark, self._offline, self._events = spark, offline, events
        self._bucket_rows = bucket_rows
        ends: Any = pc.min_max(events["event_time"].cast(TIME).cast(pa.int64())).as_py()
        self._first, self._last = (f"make_timestamp({ends[end]})" for end in ("min", "max"))

    def view(self, view: FeatureView) -> pa.Table:
        """The columns of a view.

        Raises:
            InputInvalid: a snapshot became available before its own time, or after a later one.
        """
        if view.external is None:
            paths = snapshot_paths(self._offline, view)
            return self._snapshots(view, paths) if paths else self._missing(view)
        parts = self._offline.external(view.name).served_parts()
        from_ms = point_in_time_join.served_from_ms(parts)
        return self._missing(view) if from_ms is None else self._external(view, parts, from_ms)

    def _missing(self, view: FeatureView) -> pa.Table:
        return missing_values(view, len(self._events))

    def _snapshots(self, view: FeatureView, paths: Sequence[str]) -> pa.Table:
        reach = in_reach_sql(view, self._first, self._last)

        def read(db: duckdb.DuckDBPyConnection, path: str) -> duckdb.DuckDBPyRelation:
            return snapshot_rows(db, view, [path]).filter(reach)

        def join(db: duckdb.DuckDBPyConnection, events: pa.Table, past: pa.Table) -> pa.Table:
            db.register("events", events)
            db.from_arrow(past).create_view(view.name)
            return snapshot_values(db, view).append_column(EVENT, events[EVENT])

        count = self._checked(view, paths, reach)
        past = file_rows(self._spark, paths, read, self._rows_schema(view))
        return self._joined(view, past, count, join)

    def _checked(self, view: FeatureView, paths: Sequence[str], reach: str) -> int:
        """How many rows are in reach of the events, once no snapshot is late."""
        times, count = f"{EVENT_TIMESTAMP}, {CREATED}", "rows_"

        def read(db: duckdb.DuckDBPyConnection, path: str) -> duckdb.DuckDBPyRelation:
            return snapshot_rows(db, view, [path]).aggregate(f"{times}, count(*) AS {count}", times)

        schema = pa.schema([(EVENT_TIMESTAMP, TIME), (CREATED, TIME), (count, pa.int64())])
        found = file_rows(self._spark, paths, read, schema).toArrow()
        with connection() as db:
            db.from_arrow(found).create_view(view.name)
            refuse_late(db, view)
            ((rows,),) = db.sql(
                f"SELECT coalesce(sum({count}), 0) FROM {view.name} WHERE {reach}"
            ).fetchall()
        return int(rows)

    def _external(self, view: FeatureView, parts: Sequence[Part], from_ms: int) -> pa.Table:
        def read(db: duckdb.DuckDBPyConnection, part: Part) -> duckdb.DuckDBPyRelation:
            return point_in_time_join.every_row(db, view, [part])

        def join(db: duckdb.DuckDBPyConnection, events: pa.Table, past: pa.Table) -> pa.Table:
            db.register("events", events)
            db.from_arrow(past).create_view(point_in_time_join.every_name(view))
            return external_values(db, view, from_ms).append_column(EVENT, events[EVENT])

        past = file_rows(self._spark, parts, read, self._rows_schema(view))
        return self._joined(view, past, row_count(self._spark, parts, read), join)

    def _rows_schema(self, view: FeatureView) -> pa.Schema:
        """The columns of a view's rows as executors hand them on."""
        key = self._events.schema.field(view.join_key)
        since = [] if view.external is None else [(TAKEN, TIME)]
        features = ((field.name, VALUES[field.dtype]) for field in view.fields)
        head = [(key.name, key.type), (EVENT_TIMESTAMP, TIME), (CREATED, TIME)]
        return pa.schema([*head, *features, *since])

    def _joined(self, view: FeatureView, past: DataFrame, rows: int, join: Join) -> pa.Table:
        columns = [(field.name, VALUES[field.dtype]) for field in view.fields]
        if view.external is not None:
            columns.append((point_in_time_join.row_name(view.name), pa.bool_()))
        schema = pa.schema([(EVENT, pa.int64()), *columns])
        events = self._frame("event_time", view.join_key)
        buckets = self._buckets(rows)
        found = joined_buckets(events, past, view.join_key, buckets, join, schema)
        return self._in_order(found)

    def windows(self) -> pa.Table:
        """The columns of all windows, in the order of model.yaml."""
        definition, offline = self._offline.definition, self._offline
        if not definition.windows:
            return pa.table({})
        every, found = PastWindows.of(definition), dict[str, Any]()
        first_ms = first_event_ms(self._events)

        def read(_: duckdb.DuckDBPyConnection, file: str) -> duckdb.DuckDBPyRelation:
            return offline.every_request(first_ms - every.reach_ms, [file])

        rows = row_count(self._spark, offline.request_files(), read)
        known = known_arrivals(self._spark, offline, self._bucket_rows)
        for key in every.keys:
            windows = PastWindows.of(definition, key)
            from_ms = first_ms - windows.reach_ms
            past = past_requests(self._spark, offline, windows, from_ms, known)
            columns: list[tuple[str, pa.DataType]] = [(EVENT, pa.int64())]
            schema = pa.schema([*columns, *((name, pa.float64()) for name in windows.names)])
            events = self._frame("event_time", "request_id", key)
            join = _windows_join(windows, first_ms)
            joined = joined_buckets(events, past, key, self._buckets(rows), join, schema)
            found |= dict(zip(windows.names, self._in_order(joined).columns, strict=True))
        return pa.table({name: found[name] for name in every.names})

    def _frame(self, *names: str) -> DataFrame:
        """The events, with these columns and the place of each."""
        places = pa.array(np.arange(len(self._events)))
        return self._spark.createDataFrame(
            self._events.select(sorted({*names})).append_column(EVENT, places)
        )

    def _buckets(self, rows: int) -> int:
        return -(-(rows + len(self._events)) // self._bucket_rows)

    def _in_order(self, rows: DataFrame) -> pa.Table:
        """The rows by their events, without `EVENT`."""
        found: pa.Table = rows.toArrow().sort_by(EVENT)
        if not np.array_equal(found[EVENT].to_numpy(), np.arange(len(self._events))):
            raise JobFailed(
                f"Spark gave {len(found)} rows for {len(self._events)} requests, not one for each;"
                " report it, and train with MLPLATFORM_TRAINING_ENGINE=duckdb meanwhile"
            )
        return found.drop_columns([EVENT])


def _windows_join(windows: PastWindows, first_ms: int) -> Join:
    """The windows of a bucket's events, from the requests of the bucket's entities."""

    def join(db: duckdb.DuckDBPyConnection, events: pa.Table, past: pa.Table) -> pa.Table:
        db.register("events", events)
        db.register("past", past)
        ranked = ranks_sql(f"({windows.counted_sql('past')})")
        db.execute(f"CREATE TEMP TABLE ranked AS {ranked}")
        found: pa.Table = db.sql(windows.joined_sql(first_ms)).to_arrow_table()
        return found

    return join


@contextmanager
def _problems() -> Iterator[None]:
    """Translates Spark's errors."""
    try:
        yield
    except (Py4JError, PySparkException) as error:
        problem = f"Spark ended the training join without rows: {cause_of(error)}"
        raise JobFailed(f"{problem}; docs/training.md says what executors need") from error
