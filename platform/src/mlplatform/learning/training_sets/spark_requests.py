"""The model's requests as a DataFrame of Spark, with when each became known (`arrivals`).

When a request became known depends on the positions of all others, of whatever entity. For the
records of one writer in a range, that writer's positions in the range and the first one after it
are enough, so no task and no process holds them all.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import duckdb
import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from mlplatform.learning.features.arrivals import ARRIVALS, KNOWN, known_sql, positions_sql
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.rows import request_schema
from mlplatform.learning.features.windows.training import PastWindows
from mlplatform.learning.training_sets.spark_buckets import connection, file_rows, struct_type
from mlplatform.model.features.views import quote

RANGE: Final = "_range"
_NUMBERS: Final[list[tuple[str, pa.DataType]]] = [("upto", pa.int64()), ("total", pa.int64())]
_POSITIONS: Final = pa.schema([("writer", pa.string()), *_NUMBERS])
_TYPES: Final[list[pa.DataType]] = [pa.int64(), pa.string(), pa.int64(), pa.int64(), pa.int64()]
_KNOWN: Final = pa.schema([("request_id", pa.string()), *zip(KNOWN, _TYPES, strict=True)])
Firsts = Mapping[str, Sequence[tuple[int, int, int]]]
"""Writer → the number of each range of its records that has a position, in order, with `upto` and
`total` of the first one."""


def past_requests(
    spark: SparkSession,
    offline: OfflineTable,
    windows: PastWindows,
    from_ms: int,
    known: DataFrame | None,
) -> DataFrame:
    """The columns of requests that windows read, from an event time on, with `KNOWN`.

    Args:
        known: as from `known_arrivals`.
    """
    columns, stored = quote(*windows.columns), request_schema(offline.definition)
    schema = pa.schema([stored.field(name) for name in windows.columns])

    def read(_: duckdb.DuckDBPyConnection, file: str) -> duckdb.DuckDBPyRelation:
        return offline.every_request(from_ms, [file]).project(columns)

    requests = file_rows(spark, offline.request_files(), read, schema)
    if known is None:
        kinds = struct_type(_KNOWN)
        nothing = {name: f.lit(None).cast(kinds[name].dataType) for name in KNOWN}
        return requests.withColumns(nothing)
    return requests.join(known, on="request_id", how="left")


def known_arrivals(
    spark: SparkSession, offline: OfflineTable, range_records: int
) -> DataFrame | None:
    """`known_sql` of all arrivals, which executors keep on disk for the windows of every entity;
    None if the log has no arrivals.

    Args:
        range_records: records of one writer whose positions are looked up at a time.
    """
    if not offline.arrival_files():
        return None
    return _known(spark, offline, range_records).persist(StorageLevel.DISK_ONLY)


def _known(spark: SparkSession, offline: OfflineTable, range_records: int) -> DataFrame:
    """`known_sql` of all arrivals."""

    def read(_: duckdb.DuckDBPyConnection, file: str) -> duckdb.DuckDBPyRelation:
        return offline.arrivals([file])

    def read_positions(_: duckdb.DuckDBPyConnection, file: str) -> duckdb.DuckDBPyRelation:
        return offline.arrivals([file]).query("pieces", positions_sql("pieces"))

    files = offline.arrival_files()
    arrivals = file_rows(spark, files, read, ARRIVALS)
    positions = file_rows(spark, files, read_positions, _POSITIONS)
    by_range = positions.withColumn(RANGE, f.floor(f.col("upto") / range_records))
    firsts = _firsts(by_range)

    def known(key: Any, left: pa.Table, right: pa.Table) -> pa.Table:
        writer, number = (one.as_py() for one in key)
        positions = right.select(_POSITIONS.names).cast(_POSITIONS)
        return _known_rows(left, pa.concat_tables([positions, _after(firsts, writer, number)]))

    return (
        arrivals.withColumn(RANGE, f.floor(f.col("seq") / range_records))
        .groupBy("writer", RANGE)
        .cogroup(by_range.groupBy("writer", RANGE))
        .applyInArrow(known, struct_type(_KNOWN))
    )


def _firsts(by_range: DataFrame) -> Firsts:
    first = f.min(f.struct("upto", "total")).alias("first")
    found = defaultdict[str, list[tuple[int, int, int]]](list)
    for row in by_range.groupBy("writer", RANGE).agg(first).collect():
        found[row["writer"]].append((row[RANGE], row["first"]["upto"], row["first"]["total"]))
    return {writer: sorted(ranges) for writer, ranges in found.items()}


def _after(firsts: Firsts, writer: str, number: int) -> pa.Table:
    """The first position of a writer after a range; no row if there is none."""
    ranges = firsts.get(writer, ())
    place = bisect.bisect_right(ranges, number, key=lambda one: one[0])
    found = [{"writer": writer, "upto": upto, "total": t} for _, upto, t in ranges[place:][:1]]
    return pa.Table.from_pylist(found, schema=_POSITIONS)


def _known_rows(arrivals: pa.Table, positions: pa.Table) -> pa.Table:
    """`known_sql` of the arrivals of one range of a writer's records."""
    with connection() as db:
        db.register("arrivals", arrivals.select(ARRIVALS.names).cast(ARRIVALS))
        db.register("every_position", positions)
        # several files may have the same position
        once = "(SELECT writer, upto, min(total) AS total FROM every_position GROUP BY ALL)"
        found: pa.Table = db.sql(known_sql("arrivals", once)).to_arrow_table()
    return found.select(_KNOWN.names).cast(_KNOWN)
