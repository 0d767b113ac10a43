"""The rows of decisions.db that hold records not yet sealed, in their packed form.

This is the one place that knows the form; callers write and get the columns of `record.STORED`. A
row's place is its writer's number and its own. Fields that many records share are rows of
`record_contexts`, an id of 42 hexadecimal digits is its bytes, and a payload is packed
(`payload_shapes`). What follows from the rest is left out: the record's digest always, and the
payload's as long as there is a payload.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Final

from mlplatform.decisions.records import payload_shapes
from mlplatform.decisions.records.payload_shapes import PackedPayload, PayloadPacker, PayloadReader
from mlplatform.decisions.records.record import STORED
from mlplatform.runtime.errors import Corrupt
from mlplatform.runtime.storage.batches import chunks, inserting

TABLE: Final = "unsealed_records"
_ID_DIGITS: Final = 42
_SEQ_BITS: Final = 40
_NO_END: Final = 2**63 - 1
_CONTEXT: Final = (
    *("kind", "model", "rollout_id", "arm", "answered_by", "version", "bundle", "decision"),
    *("degraded", "degraded_reason"),
)
_OWN: Final = (
    *("event_ms", "recorded_ms", "generation", "unit", "bucket", "score", "latency_us", "label"),
)
_shared = itemgetter(*map(STORED.index, _CONTEXT))
_own = itemgetter(*map(STORED.index, _OWN))
_ID, _PAYLOAD_DIGEST, _CHAIN, _PAYLOAD = map(
    STORED.index, ("decision_id", "payload_digest", "chain", "payload")
)
_SAME: Final = " AND ".join(f"{name} IS ?" for name in _CONTEXT)
_WIDTH: Final = 16
_ID_TEXT: Final = (
    "CASE typeof(r.decision_id) WHEN 'blob' THEN lower(hex(r.decision_id)) ELSE r.decision_id END"
)
STEP: Final = (
    "CREATE TABLE IF NOT EXISTS record_writers (number INTEGER PRIMARY KEY,"
    " writer TEXT NOT NULL UNIQUE) STRICT",
    """
CREATE TABLE IF NOT EXISTS record_contexts (
    number INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    model TEXT NOT NULL,
    rollout_id TEXT,
    arm TEXT,
    answered_by TEXT,
    version INTEGER,
    bundle TEXT,
    decision TEXT,
    degraded INTEGER NOT NULL,
    degraded_reason TEXT
) STRICT""",
    "CREATE INDEX IF NOT EXISTS record_contexts_fields ON record_contexts"
    " (model, kind, decision, version, arm, answered_by, rollout_id)",
    *payload_shapes.STEP,
    f"""
CREATE TABLE IF NOT EXISTS {TABLE} (
    place INTEGER PRIMARY KEY,
    context INTEGER NOT NULL,
    decision_id ANY NOT NULL,
    event_ms INTEGER NOT NULL,
    recorded_ms INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    unit INTEGER,
    bucket INTEGER,
    score REAL,
    latency_us INTEGER,
    label INTEGER,
    payload_digest BLOB,
    chain BLOB NOT NULL,
    shape INTEGER,
    numbers BLOB,
    payload TEXT
) STRICT""",
    f"""
CREATE VIEW IF NOT EXISTS unsealed AS SELECT
    r.place, w.writer, r.place & {(1 << _SEQ_BITS) - 1} AS seq, c.kind, {_ID_TEXT} AS decision_id,
    r.decision_id AS stored_id, c.model, r.event_ms, r.recorded_ms, r.generation, c.rollout_id,
    c.arm, c.answered_by, r.unit, r.bucket, c.version, c.bundle, r.score, c.decision, c.degraded,
    c.degraded_reason, r.latency_us, r.label, r.payload_digest, NULL AS digest, r.chain, r.shape,
    r.numbers, r.payload
FROM {TABLE} r
LEFT JOIN record_writers w ON w.number = r.place >> {_SEQ_BITS}
LEFT JOIN record_contexts c ON c.number = r.context""",
    "INSERT OR IGNORE INTO record_writers (writer) SELECT DISTINCT writer FROM records",
    f"INSERT INTO record_contexts ({', '.join(_CONTEXT)})"
    f" SELECT DISTINCT {', '.join(_CONTEXT)} FROM records",
    f"""
INSERT INTO {TABLE}
SELECT w.number << {_SEQ_BITS} | r.seq, c.number, r.decision_id, r.event_ms, r.recorded_ms,
    r.generation, r.unit, r.bucket, r.score, r.latency_us, r.label,
    CASE WHEN r.payload IS NULL THEN r.payload_digest END, r.chain, NULL, NULL, r.payload
FROM records r
CROSS JOIN record_writers w ON w.writer = r.writer
CROSS JOIN record_contexts c ON {" AND ".join(f"c.{name} IS r.{name}" for name in _CONTEXT)}
ORDER BY w.number, r.seq""",
    "DROP TABLE records",
)
"""Rows of an earlier release keep their payloads and ids as text until they are sealed."""


class UnsealedWriter:
    """Writes records as rows, by one connection.

    Args:
        db: a connection; calls are within its transactions.
        is_foreign: whether the records come from a log elsewhere, so that payloads may be any text.
    """

    def __init__(self, db: sqlite3.Connection, *, is_foreign: bool = False) -> None:
        self._db = db
        self._payloads = PayloadPacker(db, checks=is_foreign)
        self._writers: dict[str, int] = {}
        self._contexts: dict[tuple[Any, ...], int] = {}

    def insert(self, rows: Sequence[Sequence[Any]]) -> None:
        """Write stored records, with the columns of `STORED`.

        Raises:
            OverflowError: a number has more bits than a column.
        """
        packed = [self._packed(row) for row in rows]
        for chunk in chunks(packed):
            flat = [value for row in chunk for value in row]
            self._db.execute(inserting(TABLE, _WIDTH, len(chunk)), flat)

    def forget(self) -> None:
        """Forget what this connection added: a transaction has failed."""
        self._writers.clear()
        self._contexts.clear()
        self._payloads.forget()

    def _packed(self, row: Sequence[Any]) -> tuple[Any, ...]:
        writer, seq, payload, payload_digest = row[0], row[1], row[_PAYLOAD], None
        if seq >> _SEQ_BITS:
            raise OverflowError(f"record {seq} of {writer}: a number has {_SEQ_BITS} bits")
        number = self._writers.get(writer)
        if number is None:
            number = self._writers[writer] = self._writer_number(writer)
        shared = _shared(row)
        context = self._contexts.get(shared)
        if context is None:
            context = self._contexts[shared] = self._context(shared)
        packed: PackedPayload = (None, None, None)
        if payload is None:
            payload_digest = row[_PAYLOAD_DIGEST]
        else:
            packed = self._payloads.pack(context, payload)
        place, held_id = number << _SEQ_BITS | seq, stored_id(row[_ID])
        return (place, context, held_id, *_own(row), payload_digest, row[_CHAIN], *packed)

    def _writer_number(self, writer: str) -> int:
        number = _number_of(self._db, writer)
        if number is None:
            add = "INSERT INTO record_writers (writer) VALUES (?) RETURNING number"
            (number,) = self._db.execute(add, (writer,)).fetchone()
        return int(number)

    def _context(self, fields: tuple[Any, ...]) -> int:
        find = f"SELECT number FROM record_contexts WHERE {_SAME}"
        row = self._db.execute(find, fields).fetchone()
        if row is None:
            places = ", ".join("?" * len(fields))
            add = (
                f"INSERT INTO record_contexts ({', '.join(_CONTEXT)}) VALUES ({places})"
                " RETURNING number"
            )
            row = self._db.execute(add, fields).fetchone()
        return int(row[0])


def stored_id(decision_id: str) -> str | bytes:
    """An id as a row holds it. Rows of an earlier release hold the text."""
    if len(decision_id) == _ID_DIGITS:
        try:
            held = bytes.fromhex(decision_id)
        except ValueError:
            return decision_id
        if held.hex() == decision_id:
            return held
    return decision_id


def select(
    db: sqlite3.Connection,
    columns: Sequence[str],
    writer: str,
    *,
    after: int = 0,
    last: int | None = None,
    where: str = "",
    values: Sequence[Any] = (),
    limit: int | None = None,
    is_lenient: bool = False,
) -> list[tuple[Any, ...]]:
    """Columns of a writer's unsealed records, in order.

    Args:
        columns: columns of `STORED`; the digests that follow from the rest are None.
        after: number after which the records begin; `last` is the last number wanted.
        where: conditions on columns of the view, or on `stored_id`; empty: all.
        is_lenient: whether a payload that can't be read is returned as bytes.

    Raises:
        Corrupt: a payload can't be read.
    """
    number = _number_of(db, writer)
    if number is None:
        return []
    start = number << _SEQ_BITS
    end = start + min((1 << _SEQ_BITS) - 1, _NO_END if last is None else last)
    names = [name for name in columns if name != "payload"]
    at = columns.index("payload") if "payload" in columns else None
    query = (
        f"SELECT {', '.join([*names, 'shape, numbers, payload'] if at is not None else names)}"
        f" FROM unsealed WHERE place > ? AND place <= ?{f' AND {where}' if where else ''}"
        " ORDER BY place LIMIT ?"
    )
    found = db.execute(query, (start + after, end, *values, -1 if limit is None else limit))
    rows: list[tuple[Any, ...]] = found.fetchall()
    if at is None:
        return rows
    reader = PayloadReader(db)
    return [
        (*row[:at], _payload(reader, row[-3:], is_lenient=is_lenient), *row[at:-3]) for row in rows
    ]


def delete(db: sqlite3.Connection, writer: str, last: int) -> None:
    """Delete a writer's unsealed records up to a number."""
    number = _number_of(db, writer)
    if number is not None:
        start = number << _SEQ_BITS
        db.execute(f"DELETE FROM {TABLE} WHERE place > ? AND place <= ?", (start, start + last))


def remove_payloads(db: sqlite3.Connection, writer: str, numbers: Sequence[int]) -> None:
    """Remove the payloads of these unsealed records; each leaves its digest, and one that can't be
    read leaves a digest that a check finds."""
    where = f"seq IN ({','.join('?' * len(numbers))}) AND payload IS NOT NULL"
    change = (
        f"UPDATE {TABLE} SET payload_digest = ?, shape = NULL, numbers = NULL, payload = NULL"
        " WHERE place = ?"
    )
    for place, payload in select(
        db,
        ("place", "payload"),
        writer,
        after=min(numbers, default=1) - 1,
        last=max(numbers, default=0),
        where=where,
        values=numbers,
        is_lenient=True,
    ):
        data = payload if isinstance(payload, bytes) else payload.encode()
        db.execute(change, (hashlib.sha256(data).digest(), place))


def writers(db: sqlite3.Connection) -> list[str]:
    """The writers that have unsealed records."""
    start = f"(w.number << {_SEQ_BITS})"
    query = (
        f"SELECT writer FROM record_writers w WHERE EXISTS (SELECT 1 FROM {TABLE}"
        f" WHERE place > {start} AND place < {start} + {1 << _SEQ_BITS})"
    )
    return [writer for (writer,) in db.execute(query)]


def _number_of(db: sqlite3.Connection, writer: str) -> int | None:
    query = "SELECT number FROM record_writers WHERE writer = ?"
    row = db.execute(query, (writer,)).fetchone()
    return None if row is None else int(row[0])


def _payload(
    reader: PayloadReader, packed: PackedPayload, *, is_lenient: bool
) -> str | bytes | None:
    try:
        return reader.text(packed)
    except Corrupt:
        if is_lenient:
            return b""
        raise
