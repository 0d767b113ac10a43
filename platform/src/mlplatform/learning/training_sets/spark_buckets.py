"""Rows of files, and of buckets of keys, as DataFrames of Spark that DuckDB's SQL makes.

Functions that Spark calls in executors are closures, and what they hold is sent to each task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f
from pyspark.sql.types import (
    BooleanType,
    DataType,
    DoubleType,
    LongType,
    MapType,
    StringType,
    StructField,
    StructType,
    TimestampNTZType,
)

Source = TypeVar("Source")
Read = Callable[[duckdb.DuckDBPyConnection, Source], duckdb.DuckDBPyRelation]
"""The rows of one file."""
Join = Callable[[duckdb.DuckDBPyConnection, pa.Table, pa.Table], pa.Table]
"""The rows of a bucket: of its events and of their past."""
BUCKET: Final = "_bucket"
"""Column of a row's bucket; no request field begins like it."""
BATCH_ROWS: Final = 65_536
MOST_TASKS: Final = 4_096
"""Most tasks in which files are read; a task reads one file after another."""
_TYPES: Final[Mapping[pa.DataType, DataType]] = {
    pa.bool_(): BooleanType(),
    pa.int64(): LongType(),
    pa.float64(): DoubleType(),
    pa.string(): StringType(),
    pa.timestamp("us"): TimestampNTZType(),
    pa.map_(pa.string(), pa.int64()): MapType(StringType(), LongType()),
}


def struct_type(schema: pa.Schema) -> StructType:
    """Spark's names of a schema's types."""
    return StructType([StructField(field.name, _TYPES[field.type]) for field in schema])


@contextmanager
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB in a task, on one thread: Spark runs a task on each core."""
    with duckdb.connect(":memory:", config={"threads": 1}) as db:
        yield db


def file_rows(
    spark: SparkSession, sources: Sequence[Source], read: Read[Source], schema: pa.Schema
) -> DataFrame:
    """The rows of all files, which executors read; in no order.

    Args:
        sources: what `read` finds a file by.
        schema: the columns that `read` gives, by name.
    """

    def rows(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for place in batch.column(0).to_numpy().tolist():
                with connection() as db:
                    for found in read(db, sources[place]).to_arrow_reader(BATCH_ROWS):
                        table = pa.Table.from_batches([found]).select(schema.names)
                        yield from table.cast(schema).to_batches()

    tasks = max(1, min(len(sources), MOST_TASKS))
    return spark.range(0, len(sources), 1, tasks).mapInArrow(rows, struct_type(schema))


def joined_buckets(
    events: DataFrame, past: DataFrame, key: str, buckets: int, join: Join, schema: pa.Schema
) -> DataFrame:
    """The rows that `join` gives for each bucket of a key's values; in no order.

    Args:
        schema: the columns of `join`, by name.
    """

    def rows(left: pa.Table, right: pa.Table) -> pa.Table:
        if not left.num_rows:
            return schema.empty_table()
        with connection() as db:
            return (
                join(db, left.drop_columns([BUCKET]), right.drop_columns([BUCKET]))
                .select(schema.names)
                .cast(schema)
            )

    # as texts, because a number hashes otherwise if one side stores it as another type
    bucket = f.pmod(f.xxhash64(f.col(f"`{key}`").cast("string")), f.lit(buckets))
    left, right = (one.withColumn(BUCKET, bucket).groupBy(BUCKET) for one in (events, past))
    return left.cogroup(right).applyInArrow(rows, struct_type(schema))


def row_count(spark: SparkSession, sources: Sequence[Source], read: Read[Source]) -> int:
    """The number of rows in all files."""

    def counted(db: duckdb.DuckDBPyConnection, source: Source) -> duckdb.DuckDBPyRelation:
        return read(db, source).aggregate("count(*) AS rows")

    found = file_rows(spark, sources, counted, pa.schema([("rows", pa.int64())])).toArrow()
    return int(pc.sum(found["rows"]).as_py() or 0)
