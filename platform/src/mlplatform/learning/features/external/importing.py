"""Taking in a bank's table: checked as a whole, then added as one part, then served."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from mlplatform.learning.features.external.columns import ExternalColumns
from mlplatform.learning.features.external.files import stored_rows
from mlplatform.learning.features.external_parts import ExternalParts
from mlplatform.learning.features.online import CREATED, EVENT_TIMESTAMP, OnlineFeatures
from mlplatform.model.features.views import FeatureView, ValueType, quoted
from mlplatform.runtime.errors import InputInvalid

MEMORY: Final = "512MB"
"""Of DuckDB, which spills to disk beyond it."""
THREADS: Final = 2
SERVED_ROWS: Final = 20_000
"""In one transaction of the online store."""
GROUP_ROWS: Final = 65_536
FILE, ROW = "file_", "row_"


class Imported(msgspec.Struct, frozen=True):
    """What an import found and did.

    Args:
        rows: of the files.
        new: of them, those that were not there; 0: nothing has changed.
        entities: whose newest row the online store has now by this import.
        resumed: earlier parts that the online store did not have, which were served by this one: of
            an import that was killed, or all where the store was lost.
    """

    rows: int
    new: int
    entities: int
    resumed: int


def import_table(
    columns: ExternalColumns,
    files: Sequence[Path],
    parts: ExternalParts,
    online: OnlineFeatures | None,
    clock_ms: Callable[[], int],
    progress: Callable[[str], None] = lambda text: None,
) -> Imported:
    """Take in the rows of some files that are not there yet, or none of them.

    A row is the same as another by key, event time and availability time: with the same values it
    changes nothing, with others it is refused, as a correction is known later than what it
    corrects.

    Args:
        online: None for a dry run, which checks everything and leaves nothing behind.
        clock_ms: event time.

    Raises:
        InputInvalid: names the file, the row and what is wanted; nothing was taken in.
    """
    view = columns.view
    with parts.building() as building, _database(building) as db:
        resumed = 0 if online is None else _serve_missing(db, view, parts, online, clock_ms)
        draft = building / "rows.parquet"
        count = _collect(columns, files, draft, progress)
        if not count:
            raise InputInvalid(str(files[0]), None, "there is no row in it")
        progress("comparing with the rows that are there")
        _relations(db, columns, draft, parts.every())
        _refuse_conflict(db, columns, files)
        new = _write_new(db, columns, building / "part.parquet")
        if not new or online is None:
            return Imported(count, new, 0, resumed)
        path = parts.add(building / "part.parquet")
        progress("serving")
        entities = _serve(db, view, path, online)
        parts.note(path, clock_ms())
        return Imported(count, new, entities, resumed)


def _collect(
    columns: ExternalColumns, files: Sequence[Path], draft: Path, progress: Callable[[str], None]
) -> int:
    """Write all rows to one file, with where they come from; how many there are."""
    schema = columns.schema.append(pa.field(FILE, pa.int32())).append(pa.field(ROW, pa.int64()))
    count = 0
    with pq.ParquetWriter(draft, schema, compression="zstd", compression_level=1) as writer:
        for rows, file, first in stored_rows(columns, files):
            places = pa.array(range(first, first + rows.num_rows), pa.int64())
            numbers = pa.array([file], pa.int32()).take(pa.array([0] * rows.num_rows, pa.int8()))
            arrays = [*rows.columns, numbers, places]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
            count += rows.num_rows
            progress(f"checked {count:,} rows")
    return count


@contextmanager
def _database(building: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    config: dict[str, str | bool | int | float | list[str]] = {
        "threads": THREADS,
        "memory_limit": MEMORY,
        "temp_directory": str(building / "spill"),
    }
    with duckdb.connect(":memory:", config=config) as db:
        db.execute("SET enable_progress_bar=false")
        yield db


def _relations(
    db: duckdb.DuckDBPyConnection, columns: ExternalColumns, draft: Path, there: Sequence[Path]
) -> None:
    """Views `draft`, and `known`: of the rows that are there, those that the draft has too."""
    key, names = _key(columns.view), quoted(*columns.schema.names)
    db.read_parquet(str(draft)).create_view("draft")
    rows = (
        db.read_parquet([str(path) for path in there], union_by_name=True)
        if there
        else db.from_arrow(columns.schema.empty_table())
    )
    _declared(columns.view, rows).create_view("stored")
    db.execute(f"CREATE VIEW known AS SELECT {names} FROM stored SEMI JOIN draft USING ({key})")


_SQL: Final[Mapping[ValueType, str]] = {"float64": "DOUBLE", "int64": "BIGINT", "bool": "BOOLEAN"}


def _declared(view: FeatureView, rows: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """Stored rows, null where they were taken in before a feature was declared."""
    lacking = [field for field in view.fields if field.name not in rows.columns]
    nulls = (f", CAST(NULL AS {_SQL[field.dtype]}) AS {quoted(field.name)}" for field in lacking)
    return rows.project("*" + "".join(nulls))


def _refuse_conflict(
    db: duckdb.DuckDBPyConnection, columns: ExternalColumns, files: Sequence[Path]
) -> None:
    """Refuse a row that differs from one of the same key and times, here or among those that are
    there."""
    key = _key(columns.view)
    values = f"row({quoted(*columns.view.feature_names)})"
    found = db.execute(
        f"SELECT arg_max({FILE}, ({FILE}, {ROW})), arg_max({ROW}, ({FILE}, {ROW})), min({FILE}) < 0"
        f" FROM (SELECT {key}, {values} AS values_, {FILE}, {ROW} FROM draft UNION ALL"
        f" SELECT {key}, {values}, -1, -1 FROM known) GROUP BY {key}"
        " HAVING count(DISTINCT values_) > 1 ORDER BY 1, 2 LIMIT 1"
    ).fetchone()
    if found is not None:
        file, row, is_known = found
        source = columns.view.external
        assert source is not None
        where = "that is there already" if is_known else "above it"
        raise InputInvalid(
            files[file].name,
            row,
            f"it has other values than a row {where} of the same {columns.view.join_key},"
            f" {source.event_time} and {source.available_time} (in whole seconds); a correction has"
            f" a later {source.available_time}",
        )


def _write_new(db: duckdb.DuckDBPyConnection, columns: ExternalColumns, path: Path) -> int:
    """Write the draft's rows that are not there, each once and in order; how many they are."""
    key, names = _key(columns.view), quoted(*columns.schema.names)
    rows = db.sql(
        f"SELECT DISTINCT {names} FROM draft ANTI JOIN known USING ({key}) ORDER BY {key}"
    ).to_arrow_reader(GROUP_ROWS)
    count = 0
    with pq.ParquetWriter(path, columns.schema, compression="zstd") as writer:
        for batch in rows:
            writer.write_batch(batch.cast(columns.schema))
            count += batch.num_rows
    return count


def serve_missing(
    view: FeatureView,
    parts: ExternalParts,
    online: OnlineFeatures,
    clock_ms: Callable[[], int],
) -> int:
    """Give the online store the parts that it does not have; how many they are.

    A store that is new, or of a backup, knows of no row as new as those that were taken in: it is
    given every part again. An import that is at work does so itself, and is not waited for.
    """
    if not parts.every() or parts.is_importing():
        return 0
    with parts.building() as building, _database(building) as db:
        return _serve_missing(db, view, parts, online, clock_ms)


def _serve_missing(
    db: duckdb.DuckDBPyConnection,
    view: FeatureView,
    parts: ExternalParts,
    online: OnlineFeatures,
    clock_ms: Callable[[], int],
) -> int:
    count, served = 0, [part.path for part in parts.served()]
    if served and not parts.are_lost():
        newest = f"max(epoch_ms({EVENT_TIMESTAMP}))"
        rows = db.read_parquet([str(path) for path in served], union_by_name=True)
        (taken_ms,) = rows.aggregate(newest).fetchall()[0]
        there_ms = online.newest()[view.name]
        if there_ms is None or there_ms < taken_ms:
            parts.note_lost()  # the first batch alone may be as new: a kill must not pass for all
    if served and parts.are_lost():
        for path in served:
            _serve(db, view, path, online)
        count += len(served)
        parts.note_found()
    for path in parts.unserved():
        _serve(db, view, path, online)
        parts.note(path, clock_ms())
        count += 1
    return count


def _serve(
    db: duckdb.DuckDBPyConnection, view: FeatureView, path: Path, online: OnlineFeatures
) -> int:
    """Give the online store each entity's newest row of a part; how many are now its newest."""
    _declared(view, db.read_parquet(str(path))).create_view("part", replace=True)
    rows = db.sql(
        f"SELECT * FROM part QUALIFY row_number() OVER (PARTITION BY"
        f" {quoted(view.join_key)} ORDER BY {EVENT_TIMESTAMP} DESC, {CREATED} DESC) = 1"
    ).to_arrow_reader(SERVED_ROWS)
    return sum(online.write(view.name, pa.Table.from_batches([batch])) for batch in rows)


def _key(view: FeatureView) -> str:
    return quoted(view.join_key, EVENT_TIMESTAMP, CREATED)
