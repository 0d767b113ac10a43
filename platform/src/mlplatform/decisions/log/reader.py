"""The records of a span: rows of segments up to where each writer is sealed, then unsealed rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlplatform.decisions.log import catalogue, sealed_files
from mlplatform.decisions.log.by_ids import by_ids, has_ids
from mlplatform.decisions.log.sealed_files import SealedFile
from mlplatform.decisions.log.segments import stored_schema
from mlplatform.decisions.records import tables
from mlplatform.decisions.records.port import Span
from mlplatform.decisions.records.record import COLUMNS, KINDS, arrow_schema, arrow_table
from mlplatform.runtime.errors import InputInvalid

if TYPE_CHECKING:  # a gateway starts without pyarrow
    import pyarrow as pa
    import pyarrow.compute as pc


def read(db: sqlite3.Connection, folder: Path, span: Span) -> pa.Table:
    """The records of a span, ordered by writer and number.

    The list of files and the unsealed rows are of one moment. Files are read after it, so that a
    long read does not keep the write-ahead log from being reused.
    """
    import pyarrow as pa

    _check(span)
    schema = arrow_schema(span.columns)
    catalogue.attach(db, folder)
    with sealed_files.hold_files(folder):
        files, rows = _one_moment(db, span, schema)
        parts = []
        for writer in sorted({*files, *rows}):
            found = schema.empty_table()
            if writer in files:
                paths = [one.path(folder) for one in files[writer]]
                found = _from_files(paths, writer, span, schema)
            parts.append(found)
            if writer in rows:
                room = None if span.limit is None else max(span.limit - len(found), 0)
                parts.append(rows[writer].slice(0, room))
    return pa.concat_tables(parts) if parts else schema.empty_table()


def _one_moment(
    db: sqlite3.Connection, span: Span, schema: pa.Schema
) -> tuple[dict[str, list[SealedFile]], dict[str, pa.Table]]:
    """Files of each writer that may hold records of the span, and its unsealed records."""
    files: dict[str, list[SealedFile]] = {}
    rows = {}
    db.execute("BEGIN")
    ends = tables.sealed_numbers(db)
    for file in catalogue.files_of_span(db, span):
        files.setdefault(file.writer, []).append(file)
    for writer in tables.writers(db):
        done = ends.get(writer.writer, 0)
        if writer.seq > done:
            rows[writer.writer] = _from_rows(db, writer.writer, done, span, schema)
    db.execute("COMMIT")
    return files, rows


def _check(span: Span) -> None:
    unknown = sorted(set(span.columns) - set(COLUMNS)) + sorted(set(span.kinds) - set(KINDS))
    if unknown:
        raise InputInvalid(
            "span", None, f"the decision log has no column or kind {', '.join(unknown)}"
        )


def _from_files(files: Sequence[Path], writer: str, span: Span, schema: pa.Schema) -> pa.Table:
    import pyarrow as pa
    import pyarrow.dataset as ds

    if has_ids(span):
        matching = _expression(writer, span)
        parts = [part for file in files for part in by_ids(file, span, matching)]
        return pa.concat_tables([schema.empty_table(), *parts]).slice(0, span.limit)
    dataset = ds.dataset([str(f) for f in files], schema=stored_schema(), format="parquet")
    columns, matching = list(span.columns), _expression(writer, span)
    if span.limit is None:
        return dataset.to_table(columns=columns, filter=matching).cast(schema)
    # without reading ahead: most data after the first records is not needed
    first = dataset.head(
        span.limit, columns=columns, filter=matching, batch_readahead=1, fragment_readahead=1
    )
    return first.cast(schema)


def _expression(writer: str, span: Span) -> pc.Expression:
    import pyarrow.compute as pc

    expression = pc.field("seq") > _after(span, writer)
    for name, value in _equalities(span):
        expression &= pc.field(name) == value
    if span.kinds != KINDS:
        expression &= pc.field("kind").isin(list(span.kinds))
    if span.decision_id_starts is not None:
        expression &= pc.starts_with(pc.field("decision_id"), span.decision_id_starts)
    if span.decision_ids is not None:
        expression &= pc.field("decision_id").isin(list(span.decision_ids))
    if span.from_ms is not None:
        expression &= pc.field("event_ms") >= span.from_ms
    if span.to_ms is not None:
        expression &= pc.field("event_ms") < span.to_ms
    return expression


def _from_rows(
    db: sqlite3.Connection, writer: str, done: int, span: Span, schema: pa.Schema
) -> pa.Table:
    conditions, values = _conditions(span)
    query = (
        f"SELECT {', '.join(span.columns)} FROM records WHERE writer = ? AND seq > ?"
        f"{''.join(f' AND {c}' for c in conditions)} ORDER BY seq LIMIT ?"
    )
    after, room = max(done, _after(span, writer)), -1 if span.limit is None else span.limit
    return arrow_table(db.execute(query, (writer, after, *values, room)).fetchall(), schema)


def _conditions(span: Span) -> tuple[list[str], list[Any]]:
    conditions = [f"{name} = ?" for name, _ in _equalities(span)]
    values: list[Any] = [value for _, value in _equalities(span)]
    if span.kinds != KINDS:
        conditions.append(f"kind IN ({','.join('?' * len(span.kinds))})")
        values += span.kinds
    if span.decision_id_starts is not None:
        conditions.append("substr(decision_id, 1, ?) = ?")
        values += (len(span.decision_id_starts), span.decision_id_starts)
    if span.decision_ids is not None:
        conditions.append(f"decision_id IN ({','.join('?' * len(span.decision_ids))})")
        values += span.decision_ids
    if span.from_ms is not None:
        conditions.append("event_ms >= ?")
        values.append(span.from_ms)
    if span.to_ms is not None:
        conditions.append("event_ms < ?")
        values.append(span.to_ms)
    return conditions, values


def _equalities(span: Span) -> list[tuple[str, Any]]:
    wanted = {
        "model": span.model,
        "generation": span.generation,
        "rollout_id": span.rollout_id,
        "decision_id": span.decision_id,
        "unit": span.unit,
    }
    return [(name, value) for name, value in wanted.items() if value is not None]


def _after(span: Span, writer: str) -> int:
    return 0 if span.after is None else span.after.get(writer, 0)
