"""SQLite: write-ahead log, short lock waits, files that only this user can read."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlplatform.runtime.errors import Refused
from mlplatform.runtime.storage.sql import Schema, Session, migrate

BUSY_TIMEOUT_MS = 10_000
_INCREMENTAL = 2
_BITE_PAGES = 32
_LEAST_REST_S = 0.001


def connect(
    path: Path,
    *,
    schema: Schema | None = None,
    tables: str = "",
    durable: bool = False,
    threads: bool = False,
    busy_timeout_ms: int = BUSY_TIMEOUT_MS,
    shrinks: bool = False,
    page_bytes: int | None = None,
) -> sqlite3.Connection:
    """A connection in autocommit mode; transactions are opened by `transaction`.

    Args:
        schema: the schema to which the database is migrated; None: no migration.
        tables: idempotent DDL that runs once for each connection, for tables that depend on what is
            installed.
        durable: whether each commit is synced to disk, and so survives a power failure.
        busy_timeout_ms: milliseconds to wait for a lock once the connection is set up.
        threads: whether several threads use the connection; the caller then guards it by a lock.
        shrinks: whether a file created here can return its free pages by `shrink`.
        page_bytes: page size of a file created here, a power of two; None: SQLite's default.

    Raises:
        Refused: a newer release has written the database.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        path.touch(mode=0o600)
    is_new = path.stat().st_size == 0
    db = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None, check_same_thread=not threads
    )
    if page_bytes is not None and is_new:  # must be set first
        db.execute(f"PRAGMA page_size={int(page_bytes)}")
    if shrinks and is_new:  # must be set first; on an existing file it only waits
        db.execute("PRAGMA auto_vacuum=INCREMENTAL")
    db.execute("PRAGMA journal_mode=WAL")
    db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
    db.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    db.execute("PRAGMA foreign_keys=ON")
    try:
        if schema is not None:
            _bring_up_to_date(db, path, schema)
        if tables:
            db.executescript(tables)
    except BaseException:
        db.close()
        raise
    # The set-up may wait for a lock for a moment, whatever the timeout is later.
    db.execute(f"PRAGMA busy_timeout={int(busy_timeout_ms)}")
    return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """A write transaction that takes its lock at once, so that none of its reads goes stale.

    BEGIN DEFERRED followed by a write fails with "database is locked" whatever the timeout is.
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    finally:
        # a failed commit, for example on a full disk, may leave its transaction open
        if db.in_transaction:
            db.rollback()


@contextmanager
def throttled(rests: float = 1.0) -> Iterator[None]:
    """Runs a piece of work, then sleeps for as long as the work took.

    A process that waits for the lock looks for it now and then. Between two pieces of work without
    a sleep, it would hardly ever look while the lock is free.

    Args:
        rests: how many times as long to sleep. Beside answers, work that takes half of a core for a
            quarter of a second keeps them waiting longer than its steps do.
    """
    began_s = time.monotonic()
    yield
    time.sleep(max(rests * (time.monotonic() - began_s), _LEAST_REST_S))


def shrink(db: sqlite3.Connection, *, keep_pages: int, bite_pages: int = _BITE_PAGES) -> bool:
    """Give some free pages back to the disk. Returns False if no more than `keep_pages` are free.

    Each call is one short transaction. A file that was not made to shrink keeps its pages: they are
    used again.

    Args:
        keep_pages: number of free pages to keep, so that the file does not shrink and grow all the
            time.
        bite_pages: largest number of pages that one call returns.
    """
    if db.execute("PRAGMA auto_vacuum").fetchone()[0] != _INCREMENTAL:
        return False
    more = db.execute("PRAGMA freelist_count").fetchone()[0] - keep_pages
    if more <= 0:
        return False
    # Run as a script: `execute` ends this statement after its first step, which gives back one
    # page.
    bite = f"PRAGMA incremental_vacuum({min(more, bite_pages)})"
    try:
        db.executescript(f"BEGIN IMMEDIATE; {bite}; COMMIT")
    finally:
        if db.in_transaction:
            db.rollback()
    return True


def vacuum(db: sqlite3.Connection) -> None:
    """Write the file anew, so that none of its pages holds what was deleted. Then the write-ahead
    log is emptied, or overwritten once its readers have ended. Writers wait meanwhile."""
    db.execute("VACUUM")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


class SqliteDatabase:
    """`sql.Database` in one file; safe for threads and processes.

    Args:
        durable: whether each commit is synced to disk, and so survives a power failure.
    """

    def __init__(self, path: Path, schema: Schema, *, durable: bool = False) -> None:
        self._lock = threading.Lock()
        self._db = connect(path, schema=schema, durable=durable, threads=True)

    def rows(self, statement: str, **values: object) -> list[Sequence[Any]]:
        with self._lock:
            return self._db.execute(statement, values).fetchall()

    @contextmanager
    def read_transaction(self) -> Iterator[Session]:
        with self._lock:
            self._db.execute("BEGIN")
            try:
                yield _SqliteSession(self._db)
            finally:
                self._db.execute("ROLLBACK")

    @contextmanager
    def write_transaction(self) -> Iterator[Session]:
        with self._lock, transaction(self._db) as db:
            yield _SqliteSession(db)

    def vacuum(self) -> None:
        with self._lock:
            vacuum(self._db)

    def close(self) -> None:
        self._db.close()


class _SqliteSession:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def rows(self, statement: str, **values: object) -> list[Sequence[Any]]:
        return self._db.execute(statement, values).fetchall()

    def change(self, statement: str, **values: object) -> int:
        return self._db.execute(statement, values).rowcount


class _OneConnection:
    """One connection, in the form that `migrate` needs."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    @contextmanager
    def write_transaction(self) -> Iterator[Session]:
        with transaction(self._db) as db:
            yield _SqliteSession(db)


def _bring_up_to_date(db: sqlite3.Connection, path: Path, schema: Schema) -> None:
    try:
        migrate(_OneConnection(db), schema, _version(db, schema.part))
    except Refused as refusal:
        raise Refused(f"{path}: {refusal}") from None


def _version(db: sqlite3.Connection, part: str) -> int:
    try:
        query = "SELECT version FROM schema_versions WHERE part = ?"
        found = db.execute(query, (part,)).fetchone()
    except sqlite3.OperationalError:  # no such table: of before there were versions, or new
        return 0
    return int(found[0]) if found else 0
