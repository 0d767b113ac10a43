"""Records by a query: rows of segments up to where each writer is sealed, then unsealed rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlplatform.decisions.log import catalogue, sealed_files
from mlplatform.decisions.log.by_keys import by_keys, has_keys
from mlplatform.decisions.log.sealed_files import SealedFile
from mlplatform.decisions.log.sealed_form import ID, id_columns, sealed_schema, with_ids
from mlplatform.decisions.records import tables, unsealed_records
from mlplatform.decisions.records.port import RecordQuery
from mlplatform.decisions.records.record import COLUMNS, KINDS, arrow_schema, arrow_table
from mlplatform.runtime.errors import InputInvalid

if TYPE_CHECKING:  # a gateway starts without pyarrow
    import pyarrow as pa
    import pyarrow.compute as pc


def read(db: sqlite3.Connection, folder: Path, query: RecordQuery) -> pa.Table:
    """The records of a query, ordered by writer and number.

    The list of files and the unsealed rows are of one moment. Files are read after it, so that a
    long read does not keep the write-ahead log from being reused.
    """
    import pyarrow as pa

    _check(query)
    schema = arrow_schema(query.columns)
    catalogue.attach(db, folder)
    with sealed_files.hold_files(folder):
        files, rows = _one_moment(db, query, schema)
        parts = []
        for writer in sorted({*files, *rows}):
            found = schema.empty_table()
            if writer in files:
                paths = [one.path(folder) for one in files[writer]]
                found = _from_files(paths, writer, query, schema)
            parts.append(found)
            if writer in rows:
                room = None if query.limit is None else max(query.limit - len(found), 0)
                parts.append(rows[writer].slice(0, room))
    return pa.concat_tables(parts) if parts else schema.empty_table()


def _one_moment(
    db: sqlite3.Connection, query: RecordQuery, schema: pa.Schema
) -> tuple[dict[str, list[SealedFile]], dict[str, pa.Table]]:
    """Files of each writer that may hold records of the query, and its unsealed records."""
    files: dict[str, list[SealedFile]] = {}
    rows = {}
    db.execute("BEGIN")
    ends = tables.sealed_numbers(db)
    for file in catalogue.files_of_query(db, query):
        files.setdefault(file.writer, []).append(file)
    for writer in tables.writers(db):
        done = ends.get(writer.writer, 0)
        if writer.seq > done:
            rows[writer.writer] = _from_rows(db, writer.writer, done, query, schema)
    db.execute("COMMIT")
    return files, rows


def _check(query: RecordQuery) -> None:
    unknown = sorted(set(query.columns) - set(COLUMNS)) + sorted(set(query.kinds) - set(KINDS))
    if unknown:
        raise InputInvalid(
            "query", None, f"the decision log has no column or kind {', '.join(unknown)}"
        )


def _from_files(
    files: Sequence[Path], writer: str, query: RecordQuery, schema: pa.Schema
) -> pa.Table:
    import pyarrow as pa
    import pyarrow.dataset as ds

    if has_keys(query):
        parts = by_keys(files, query, _expression(writer, query))
        return pa.concat_tables([schema.empty_table(), *parts])
    columns, matching = id_columns(query.columns), _expression(writer, query)
    paths, sealed = [str(f) for f in files], sealed_schema()
    if query.limit is None:
        dataset = ds.dataset(paths, schema=sealed, format="parquet")
        return with_ids(dataset.to_table(columns=columns, filter=matching)).cast(schema)
    found, room = [schema.empty_table()], query.limit
    for path in paths:
        if room <= 0:
            break
        # one file after the other, and without reading ahead: most data after the first records is
        # not needed, and a dataset of all files decodes the next one too
        first = ds.dataset([path], schema=sealed, format="parquet").head(
            room, columns=columns, filter=matching, batch_readahead=1
        )
        found.append(with_ids(first).cast(schema))
        room -= len(first)
    return pa.concat_tables(found)


def _expression(writer: str, query: RecordQuery) -> pc.Expression:
    import pyarrow.compute as pc

    expression = pc.field("seq") > _after(query, writer)
    for name, value in _equalities(query):
        expression &= pc.field(name) == value
    if query.kinds != KINDS:
        expression &= pc.field("kind").isin(list(query.kinds))
    if query.decision_id_starts is not None:
        expression &= pc.starts_with(pc.field("decision_id"), query.decision_id_starts)
    if query.decision_ids is not None:
        expression &= pc.field("decision_id").isin(list(query.decision_ids))
    if query.from_ms is not None:
        expression &= pc.field("event_ms") >= query.from_ms
    if query.to_ms is not None:
        expression &= pc.field("event_ms") < query.to_ms
    return expression


def _from_rows(
    db: sqlite3.Connection, writer: str, done: int, query: RecordQuery, schema: pa.Schema
) -> pa.Table:
    conditions, values = _conditions(query)
    rows = unsealed_records.select(
        db,
        query.columns,
        writer,
        after=max(done, _after(query, writer)),
        where=" AND ".join(conditions),
        values=values,
        limit=query.limit,
    )
    return arrow_table(rows, schema)


def _conditions(query: RecordQuery) -> tuple[list[str], list[Any]]:
    equal = [(name, value) for name, value in _equalities(query) if name != ID]
    conditions = [f"{name} = ?" for name, _ in equal]
    values: list[Any] = [value for _, value in equal]
    if query.kinds != KINDS:
        conditions.append(f"kind IN ({','.join('?' * len(query.kinds))})")
        values += query.kinds
    if query.decision_id_starts is not None:
        conditions.append("substr(decision_id, 1, ?) = ?")
        values += (len(query.decision_id_starts), query.decision_id_starts)
    one = None if query.decision_id is None else (query.decision_id,)
    for ids in (one, query.decision_ids):
        if ids is not None:
            held = [*ids, *map(unsealed_records.stored_id, ids)]
            conditions.append(f"stored_id IN ({','.join('?' * len(held))})")
            values += held
    if query.from_ms is not None:
        conditions.append("event_ms >= ?")
        values.append(query.from_ms)
    if query.to_ms is not None:
        conditions.append("event_ms < ?")
        values.append(query.to_ms)
    return conditions, values


def _equalities(query: RecordQuery) -> list[tuple[str, Any]]:
    wanted = {
        "model": query.model,
        "generation": query.generation,
        "rollout_id": query.rollout_id,
        "decision_id": query.decision_id,
        "unit": query.unit,
    }
    return [(name, value) for name, value in wanted.items() if value is not None]


def _after(query: RecordQuery, writer: str) -> int:
    return 0 if query.after is None else query.after.get(writer, 0)
