"""Keys and token buckets in one SQLite file, shared by all processes of a machine."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mlplatform.runtime.errors import NotFound, Refused, Unavailable
from mlplatform.runtime.storage.sql import Schema
from mlplatform.runtime.storage.sqlite import connect, transaction
from mlplatform.scoring.admission.bucket import Level, Take, TokenGrant, full, take_tokens
from mlplatform.scoring.admission.clients import Key
from mlplatform.scoring.admission.key_rows import COLUMNS
from mlplatform.scoring.admission.key_rows import key as key_of
from mlplatform.scoring.admission.key_rows import row as row_of
from mlplatform.scoring.admission.store import FORGET_AFTER_MS

SCHEMA = Schema(
    "admission",
    (
        (
            "CREATE TABLE IF NOT EXISTS keys (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,"
            " digest TEXT NOT NULL UNIQUE, client TEXT NOT NULL, scopes TEXT NOT NULL,"
            " priority TEXT NOT NULL, rate_per_s REAL, burst INTEGER, created_ms INTEGER NOT NULL,"
            " expires_ms INTEGER, revoked_ms INTEGER) STRICT",
            "CREATE TABLE IF NOT EXISTS keys_version (one INTEGER PRIMARY KEY CHECK (one = 1),"
            " version INTEGER NOT NULL) STRICT",
            "INSERT OR IGNORE INTO keys_version VALUES (1, 0)",
            "CREATE TABLE IF NOT EXISTS buckets (bucket TEXT PRIMARY KEY, tokens REAL NOT NULL,"
            " at_ms INTEGER NOT NULL) STRICT",
        ),
    ),
)
"""The migrations of the tables. Files from before schema versions have the tables of the first step
already."""

_COLUMNS = ", ".join(COLUMNS)


class SqliteAdmission:
    """`Admission` in one file; safe for threads and processes.

    Args:
        busy_timeout_ms: milliseconds to wait for locks of other processes. A gateway sets less than
            the time for which its tokens last.
    """

    def __init__(self, path: Path, *, busy_timeout_ms: int = 10_000) -> None:
        self._path = path
        self._lock = threading.Lock()
        with self._translated():
            self._db = connect(path, schema=SCHEMA, threads=True)
            self._db.execute(f"PRAGMA busy_timeout={busy_timeout_ms}")
            # These buckets have long been full again, and a client without a row has a full bucket.
            # There can be many subjects of tokens.
            forgotten_ms = time.time_ns() // 1_000_000 - FORGET_AFTER_MS
            self._db.execute("DELETE FROM buckets WHERE at_ms < ?", (forgotten_ms,))

    def close(self) -> None:
        self._db.close()

    def add(self, key: Key) -> None:
        with self._translated(), self._lock, self._changed() as db:
            row = row_of(key)
            try:
                marks = ", ".join("?" * len(row))
                db.execute(f"INSERT INTO keys ({_COLUMNS}) VALUES ({marks})", row)
            except sqlite3.IntegrityError as error:
                raise Refused(f"a key {key.id} is there already") from error

    def revoke(self, name: str, now_ms: int) -> list[Key]:
        with self._translated(), self._lock, self._changed() as db:
            found = _read(db, "WHERE id = ?1 OR client = ?1", name)
            if not found:
                raise NotFound(
                    f"no key and no client is named {name!r}; `mlplatform keys list` has them all"
                )
            db.execute(
                "UPDATE keys SET revoked_ms = ?2 WHERE ?1 IN (id, client) AND revoked_ms IS NULL",
                (name, now_ms),
            )
        return [key for key in found if key.is_live(now_ms)]

    def all_keys(self) -> list[Key]:
        with self._translated(), self._lock:
            return _read(self._db)

    def version(self) -> int:
        with self._translated(), self._lock:
            (version,) = self._db.execute("SELECT version FROM keys_version").fetchone()
            return int(version)

    def take(self, takes: Sequence[Take], now_ms: int) -> list[TokenGrant]:
        with self._translated(), self._lock, transaction(self._db) as db:
            return [_take(db, take, now_ms) for take in takes]

    @contextmanager
    def _changed(self) -> Iterator[sqlite3.Connection]:
        # A revocation must survive a power cut; taken tokens need not.
        self._db.execute("PRAGMA synchronous=FULL")
        try:
            with transaction(self._db) as db:
                yield db
                db.execute("UPDATE keys_version SET version = version + 1")
        finally:
            self._db.execute("PRAGMA synchronous=NORMAL")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(f"the admission store {self._path} can't be used") from error


def _take(db: sqlite3.Connection, take: Take, now_ms: int) -> TokenGrant:
    row = db.execute(
        "SELECT tokens, at_ms FROM buckets WHERE bucket = ?", (take.bucket,)
    ).fetchone()
    level = Level(*row) if row else full(take.limit, now_ms)
    left, taken = take_tokens(level, take, now_ms)
    stored = (take.bucket, left.tokens, left.at_ms)
    db.execute("INSERT OR REPLACE INTO buckets VALUES (?, ?, ?)", stored)
    return taken


def _read(db: sqlite3.Connection, where: str = "", *values: object) -> list[Key]:
    rows = db.execute(f"SELECT {_COLUMNS} FROM keys {where} ORDER BY seq", values)
    return [key_of(*row) for row in rows]
