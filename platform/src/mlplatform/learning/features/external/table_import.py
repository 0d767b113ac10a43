"""Import of a bank's table: checked as a whole, then added as one part, then served."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from mlplatform.learning.features.external.columns import ExternalColumns
from mlplatform.learning.features.external.files import TableSource
from mlplatform.learning.features.external_parts import ExternalParts, PartNote
from mlplatform.learning.features.online import CREATED, EVENT_TIMESTAMP, OnlineWriter
from mlplatform.model.features.views import FeatureView, ValueType, quote
from mlplatform.runtime.errors import InputInvalid

MEMORY: Final = "512MB"
"""Memory limit of DuckDB, which spills to disk beyond it."""
THREADS: Final = 2
SERVED_ROWS: Final = 20_000
"""Rows of one transaction of the online store."""
GROUP_ROWS: Final = 65_536
FILE, ROW = "file_", "row_"


class ImportReport(msgspec.Struct, frozen=True):
    """The result of an import.

    Args:
        rows: number of rows that were read.
        new: how many of them the table did not have; 0 if nothing changed.
        entities: number of entities whose newest row in the online store comes from this import.
        resumed: number of earlier parts that this import served because the online store lacked
            them: after an import was killed, or all parts after the store was lost.
    """

    rows: int
    new: int
    entities: int
    resumed: int


def import_table(
    columns: ExternalColumns,
    source: TableSource,
    parts: ExternalParts,
    online: OnlineWriter | None,
    clock_ms: Callable[[], int],
    progress: Callable[[str], None] = lambda text: None,
) -> ImportReport:
    """Import the rows of a source that are not in the table yet, or none of them.

    Key, event time and availability time identify a row. A row that is there already with the same
    values changes nothing. With other values it is refused, because a correction is known later
    than the row that it corrects.

    Args:
        online: the online store; None for a dry run, which checks everything and stores nothing.
        clock_ms: returns the present event time.

    Raises:
        InputInvalid: a row or a file is wrong; the message names the file, the row and what is
            wanted. Nothing was imported.
    """
    view = columns.view
    with parts.building() as building, database(building) as db:
        resumed = 0 if online is None else _serve_missing(db, view, parts, online, clock_ms)
        draft = building / "rows.parquet"
        count = _collect(columns, source, draft, progress)
        new = entities = 0
        if count:
            progress("comparing with the rows that are there")
            _relations(db, columns, draft, parts.every())
            _refuse_conflict(db, columns, source.names)
            new = _write_new(db, columns, building / "part.parquet")
        elif not source.may_be_empty:
            raise InputInvalid(source.name, None, "there is no row in it")
        if online is not None and new:
            path = parts.add(building / "part.parquet")
            progress("serving")
            entities = _serve(db, view, path, online)
            parts.note(path, clock_ms())
            _renew_mark(view, parts, online)
        if online is not None:
            source.note_read(columns, parts)
        return ImportReport(count, new, entities, resumed)


def add_served(
    columns: ExternalColumns,
    batches: Iterable[pa.RecordBatch],
    parts: ExternalParts,
    note: PartNote,
    online: OnlineWriter,
) -> int:
    """Add rows that the online store already has, as a part. Returns the number of rows that were
    new.

    If the online store lost rows, its mark is not renewed: it may have had these rows before the
    loss.

    Args:
        batches: rows with the columns of `columns.schema`; each batch has at least one row.
    """
    with parts.building() as building, database(building) as db:
        draft = building / "rows.parquet"
        schema = columns.schema.append(pa.field(FILE, pa.int32())).append(pa.field(ROW, pa.int64()))
        with pq.ParquetWriter(draft, schema, compression="zstd", compression_level=1) as writer:
            for batch in batches:
                nothing = [pa.nulls(batch.num_rows, kind) for kind in (pa.int32(), pa.int64())]
                arrays = [*batch.columns, *nothing]
                writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
        _relations(db, columns, draft, parts.every())
        new = _write_new(db, columns, building / "part.parquet")
        if new:
            is_whole = _is_whole(columns.view, parts, online)
            parts.add(building / "part.parquet", note)
            if is_whole:
                _renew_mark(columns.view, parts, online)
        return new


def _collect(
    columns: ExternalColumns, source: TableSource, draft: Path, progress: Callable[[str], None]
) -> int:
    """Write all rows to one file, each with its place in the files. Returns their number."""
    schema = columns.schema.append(pa.field(FILE, pa.int32())).append(pa.field(ROW, pa.int64()))
    count = 0
    with pq.ParquetWriter(draft, schema, compression="zstd", compression_level=1) as writer:
        for rows, file, row_numbers in source.rows(columns):
            places = pa.array(row_numbers, pa.int64())
            numbers = pa.array([file], pa.int32()).take(pa.array([0] * rows.num_rows, pa.int8()))
            arrays = [*rows.columns, numbers, places]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
            count += rows.num_rows
            progress(f"checked {count:,} rows")
    return count


@contextmanager
def database(building: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory, which spills into that folder."""
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
    """Create the views `draft`, and `known`: the stored rows that the draft has too."""
    key, names = _key(columns.view), quote(*columns.schema.names)
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
    """Stored rows, with null for features that were declared after the rows were stored."""
    lacking = [field for field in view.fields if field.name not in rows.columns]
    nulls = (f", CAST(NULL AS {_SQL[field.dtype]}) AS {quote(field.name)}" for field in lacking)
    return rows.project("*" + "".join(nulls))


def _refuse_conflict(
    db: duckdb.DuckDBPyConnection, columns: ExternalColumns, names: Sequence[str]
) -> None:
    """Raise for a row that differs from another of the same key and times, in the draft or in the
    table."""
    key = _key(columns.view)
    values = f"row({quote(*columns.view.feature_names)})"
    found = db.execute(
        f"SELECT arg_max({FILE}, ({FILE}, {ROW})), arg_max({ROW}, ({FILE}, {ROW})), min({FILE}) < 0"
        f" FROM (SELECT {key}, {values} AS values_, {FILE}, {ROW} FROM draft UNION ALL"
        f" SELECT {key}, {values}, -1, -1 FROM known) GROUP BY {key}"
        " HAVING count(DISTINCT values_) > 1 ORDER BY 1, 2 LIMIT 1"
    ).fetchone()
    if found is not None:
        file, row, is_known = found
        external = columns.view.external
        assert external is not None
        where = "that is there already" if is_known else "above it"
        raise InputInvalid(
            names[file],
            row,
            f"it has other values than a row {where} of the same {columns.view.join_key},"
            f" {external.event_time} and {external.available_time} (in whole seconds); a correction"
            f" has a later {external.available_time}",
        )


def _write_new(db: duckdb.DuckDBPyConnection, columns: ExternalColumns, path: Path) -> int:
    """Write the draft's rows that are not in the table, each once and in order. Returns their
    number."""
    key, names = _key(columns.view), quote(*columns.schema.names)
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
    online: OnlineWriter,
    clock_ms: Callable[[], int],
) -> int:
    """Give the online store the parts that it lacks. Returns their number.

    A store that is new, or from a backup, lacks the mark that is stored beside the parts, and gets
    every part again. A running import serves its part itself, and is not waited for.
    """
    if not parts.every() or parts.is_importing():
        return 0
    with parts.building() as building, database(building) as db:
        return _serve_missing(db, view, parts, online, clock_ms)


def _serve_missing(
    db: duckdb.DuckDBPyConnection,
    view: FeatureView,
    parts: ExternalParts,
    online: OnlineWriter,
    clock_ms: Callable[[], int],
) -> int:
    count = 0
    if not _is_whole(view, parts, online):
        served = [part.path for part in parts.served_parts()]
        begun = secrets.token_hex(16)  # stored beside the parts only once all are served
        online.set_mark(view.name, online.mark(view.name), begun)
        for path in served:
            _serve(db, view, path, online)
        parts.note_mark(begun)
        count += len(served)
    unserved = parts.unserved_parts()
    for path in unserved:
        _serve(db, view, path, online)
        parts.note(path, clock_ms())
    if unserved:
        _renew_mark(view, parts, online)
    return count + len(unserved)


def _is_whole(view: FeatureView, parts: ExternalParts, online: OnlineWriter) -> bool:
    """Whether the online store still has the rows of all served parts, by its mark."""
    mark = parts.mark()
    return mark is not None and online.mark(view.name) == mark


def _renew_mark(view: FeatureView, parts: ExternalParts, online: OnlineWriter) -> None:
    """Give the online store a new mark after it got one more part, so that an older copy of it is
    recognised. A store that was lost meanwhile gets none."""
    mark = secrets.token_hex(16)
    if online.set_mark(view.name, parts.mark(), mark):
        parts.note_mark(mark)


def _serve(
    db: duckdb.DuckDBPyConnection, view: FeatureView, path: Path, online: OnlineWriter
) -> int:
    """Give the online store each entity's newest row of a part. Returns how many are now its
    newest."""
    _declared(view, db.read_parquet(str(path))).create_view("part", replace=True)
    rows = db.sql(
        f"SELECT * FROM part QUALIFY row_number() OVER (PARTITION BY"
        f" {quote(view.join_key)} ORDER BY {EVENT_TIMESTAMP} DESC, {CREATED} DESC) = 1"
    ).to_arrow_reader(SERVED_ROWS)
    return sum(online.write(view.name, pa.Table.from_batches([batch])) for batch in rows)


def _key(view: FeatureView) -> str:
    return quote(view.join_key, EVENT_TIMESTAMP, CREATED)
