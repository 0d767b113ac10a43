"""The tables of decisions.db: records not yet sealed, idempotency keys, writer heads, manifest."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from mlplatform.decisions.records import kept_keys, recent_keys, unsealed_records
from mlplatform.decisions.records.port import ManifestHead, Watermark, WriterHead
from mlplatform.decisions.records.record import GENESIS, STORED
from mlplatform.runtime.storage.sql import Schema

DATABASE: Final = "decisions.db"

SCHEMA: Final = Schema(
    "decisions",
    (
        (
            """
CREATE TABLE IF NOT EXISTS records (
    writer TEXT NOT NULL,
    seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    decision_id TEXT NOT NULL,
    model TEXT NOT NULL,
    event_ms INTEGER NOT NULL,
    recorded_ms INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    rollout_id TEXT,
    arm TEXT,
    answered_by TEXT,
    unit INTEGER,
    bucket INTEGER,
    version INTEGER,
    bundle TEXT,
    score REAL,
    decision TEXT,
    degraded INTEGER NOT NULL,
    degraded_reason TEXT,
    latency_us INTEGER,
    label INTEGER,
    payload_digest BLOB NOT NULL,
    digest BLOB NOT NULL,
    chain BLOB NOT NULL,
    payload TEXT,
    PRIMARY KEY (writer, seq)
) STRICT""",
            """
CREATE TABLE IF NOT EXISTS idempotency (
    client TEXT NOT NULL,
    model TEXT NOT NULL,
    key TEXT NOT NULL,
    body_digest TEXT NOT NULL,
    answer BLOB NOT NULL,
    decision_id TEXT NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    PRIMARY KEY (client, model, key)
) STRICT""",
            """
CREATE TABLE IF NOT EXISTS writers (
    writer TEXT PRIMARY KEY,
    seq INTEGER NOT NULL,
    chain BLOB NOT NULL,
    event_ms INTEGER,
    heartbeat_at_ms INTEGER NOT NULL,
    closed INTEGER NOT NULL,
    session INTEGER NOT NULL
) STRICT, WITHOUT ROWID""",
            """
CREATE TABLE IF NOT EXISTS segments (
    number INTEGER PRIMARY KEY,
    writer TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    from_ms INTEGER NOT NULL,
    to_ms INTEGER NOT NULL,
    chain BLOB NOT NULL,
    sha256 TEXT NOT NULL,
    previous TEXT NOT NULL,
    digest TEXT NOT NULL,
    UNIQUE (writer, first)
) STRICT""",
        ),
        (
            "CREATE INDEX IF NOT EXISTS idempotency_expiry ON idempotency (expires_at_ms)",
            "CREATE TABLE IF NOT EXISTS spills (spill TEXT PRIMARY KEY, moved INTEGER NOT NULL)"
            " STRICT, WITHOUT ROWID",
        ),
        (
            "CREATE TABLE IF NOT EXISTS gathered (writer TEXT PRIMARY KEY,"
            " session INTEGER NOT NULL, spilled INTEGER NOT NULL) STRICT, WITHOUT ROWID",
            "CREATE TABLE IF NOT EXISTS pruned (writer TEXT PRIMARY KEY, seq INTEGER NOT NULL,"
            " chain BLOB NOT NULL) STRICT, WITHOUT ROWID",
        ),
        (
            """
CREATE TABLE IF NOT EXISTS files (
    file INTEGER PRIMARY KEY AUTOINCREMENT,
    writer TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    from_ms INTEGER NOT NULL,
    to_ms INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    apart INTEGER NOT NULL DEFAULT 0,
    UNIQUE (writer, first)
) STRICT""",
            "INSERT OR IGNORE INTO files (writer, first, last, rows, from_ms, to_ms, sha256)"
            " SELECT writer, first, last, rows, from_ms, to_ms, sha256 FROM segments"
            " ORDER BY number",
            "CREATE TABLE IF NOT EXISTS files_token (token BLOB NOT NULL) STRICT",
            "INSERT INTO files_token SELECT randomblob(16)"
            " WHERE NOT EXISTS (SELECT 1 FROM files_token)",
            """
CREATE TRIGGER IF NOT EXISTS sealed_files AFTER INSERT ON segments BEGIN
    INSERT OR IGNORE INTO files (writer, first, last, rows, from_ms, to_ms, sha256)
    VALUES (NEW.writer, NEW.first, NEW.last, NEW.rows, NEW.from_ms, NEW.to_ms, NEW.sha256);
    UPDATE files_token SET token = randomblob(16);
END""",
        ),
        kept_keys.STEP,
        recent_keys.STEP,
        unsealed_records.STEP,
    ),
)
"""The migrations of decisions.db. Records were in a table `records` before they got their packed
form (`unsealed_records`). A step must not change which columns a record has: digests cover them by
position (`record.COLUMNS`). What a record is to hold besides goes into its payload.

The table `idempotency` holds keys of an earlier release, until they end.

The steps also run on files from before schema versions, which already have these tables.
"""


class ReplicatedWriter(NamedTuple):
    """A writer whose records come from a log elsewhere.

    Args:
        session: session number of the writer when its records came from elsewhere. If the table of
            writers has another number now, the writer writes here itself.
        spilled: number of spilled records that its gateway reported last.
    """

    session: int
    spilled: int


class Writer(NamedTuple):
    """A row of the table of writers."""

    writer: str
    seq: int
    chain: bytes
    event_ms: int | None
    heartbeat_at_ms: int
    closed: int
    session: int


def writers(db: sqlite3.Connection) -> list[Writer]:
    """All writers that this log has seen, sorted by name."""
    query = f"SELECT {', '.join(Writer._fields)} FROM writers ORDER BY writer"
    return [Writer(*row) for row in db.execute(query)]


def replicated_writers(db: sqlite3.Connection) -> dict[str, ReplicatedWriter]:
    """The writers whose records come from a log elsewhere."""
    rows = db.execute(
        "SELECT g.writer, g.session, g.spilled FROM gathered g JOIN writers w"
        " USING (writer) WHERE g.session = w.session"
    )
    return {writer: ReplicatedWriter(session, spilled) for writer, session, spilled in rows}


def watermark(found: Writer, elsewhere: ReplicatedWriter | None, oldest_ms: int) -> Watermark:
    """Args: oldest_ms: wall time since which a writer that lives has sent a heartbeat."""
    is_stale = found.heartbeat_at_ms < oldest_ms
    # Nobody knows which records a log elsewhere still holds, so the wait ends only when it closes.
    is_live = not found.closed and (elsewhere is not None or not is_stale)
    return Watermark(
        found.writer,
        found.seq,
        found.event_ms,
        found.heartbeat_at_ms,
        is_live,
        spilled=0 if elsewhere is None else elsewhere.spilled,
        unheard=elsewhere is not None and is_stale,
        chain=found.chain.hex(),
    )


def pruned_heads(db: sqlite3.Connection) -> dict[str, tuple[int, bytes]]:
    """The number up to which each writer's records are only in another log, and the chain there."""
    rows = db.execute("SELECT writer, seq, chain FROM pruned")
    return {writer: (seq, chain) for writer, seq, chain in rows}


def move_pruned(db: sqlite3.Connection, writer: str, seq: int, chain: bytes) -> None:
    """Note that records up to here are kept elsewhere, and drop their rows."""
    move = """
    INSERT INTO pruned VALUES (?, ?, ?)
    ON CONFLICT (writer) DO UPDATE SET seq = excluded.seq, chain = excluded.chain
    """
    db.execute(move, (writer, seq, chain))
    unsealed_records.delete(db, writer, seq)


def sealed_numbers(db: sqlite3.Connection) -> dict[str, int]:
    """The last number of each writer that a segment holds; rows up to it no longer count."""
    names = db.execute("SELECT writer FROM writers").fetchall()
    ends = {writer: sealed_end(db, writer)[0] for (writer,) in names}
    return {writer: last for writer, last in ends.items() if last > 0}


def sealed_end(db: sqlite3.Connection, writer: str) -> tuple[int, bytes]:
    """The last number of a writer that a segment holds, and the chain there; number 0 if there is
    none."""
    # by the index over writer and first number, however many segments there are
    end = "SELECT last, chain FROM segments WHERE writer = ? ORDER BY first DESC LIMIT 1"
    seq, chain = db.execute(end, (writer,)).fetchone() or (0, GENESIS)
    return seq, chain


def change_files_token(db: sqlite3.Connection) -> None:
    """Give the list of files a new token; call after every change."""
    db.execute("UPDATE files_token SET token = randomblob(16)")


def head(db: sqlite3.Connection) -> ManifestHead:
    """The manifest's head and the heads of all writers, as of this transaction."""
    last = db.execute("SELECT number, digest FROM segments ORDER BY number DESC LIMIT 1").fetchone()
    count, digest = last or (0, GENESIS.hex())
    heads: Mapping[str, WriterHead] = {
        w.writer: WriterHead(w.seq, w.chain.hex()) for w in writers(db)
    }
    return ManifestHead(count, digest, heads)


def unsealed_rows(
    db: sqlite3.Connection,
    writer: str,
    *,
    after: int,
    limit: int | None = None,
    is_lenient: bool = False,
) -> list[tuple[Any, ...]]:
    """A writer's stored records with larger numbers, in order; None for a digest that follows from
    the rest.

    Args:
        is_lenient: whether a payload that can't be read is returned as bytes.

    Raises:
        Corrupt: a payload can't be read.
    """
    return unsealed_records.select(
        db, STORED, writer, after=after, limit=limit, is_lenient=is_lenient
    )


def spill_mark(db: sqlite3.Connection, spill: str) -> int | None:
    """The byte up to which a spill is in the log; None if nothing of it is."""
    row = db.execute("SELECT moved FROM spills WHERE spill = ?", (spill,)).fetchone()
    return None if row is None else int(row[0])


def move_spill_mark(db: sqlite3.Connection, spill: str, *, start: int, end: int) -> bool:
    """Move the mark of a spill from `start` to `end`. Returns False if the mark was elsewhere."""
    move = """
    INSERT INTO spills VALUES (?, ?)
    ON CONFLICT (spill) DO UPDATE SET moved = excluded.moved WHERE moved = ?
    """
    return db.execute(move, (spill, end, start)).rowcount == 1


def forget_spill(db: sqlite3.Connection, spill: str) -> None:
    """Drop the mark of a spill that is gone."""
    db.execute("DELETE FROM spills WHERE spill = ?", (spill,))
