"""The file of a model's review queue: its tables, and how it is opened."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.storage import sqlite

ANSWER_WAITS_MS: Final = 1_000
"""Milliseconds that an answer waits while a pass writes a portion."""
FORMAT: Final = 1
TABLES: Final = """
CREATE TABLE IF NOT EXISTS waiting (
    decision_id TEXT PRIMARY KEY,
    event_ms INTEGER NOT NULL,
    decision TEXT NOT NULL,
    score REAL,
    version INTEGER,
    shown TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS waiting_since ON waiting (event_ms, decision_id);
CREATE TABLE IF NOT EXISTS ended (decision_id TEXT PRIMARY KEY, event_ms INTEGER NOT NULL)
    STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS said (
    writer TEXT NOT NULL,
    seq INTEGER NOT NULL,
    decision_id TEXT NOT NULL,
    event_ms INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (writer, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS said_of ON said (decision_id);
CREATE TABLE IF NOT EXISTS position (writer TEXT PRIMARY KEY, seq INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS stands_for (
    only_one INTEGER PRIMARY KEY, declaration TEXT NOT NULL, complete INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS corrections (
    decision_id TEXT PRIMARY KEY,
    event_ms INTEGER NOT NULL,
    asked_ms INTEGER NOT NULL,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""


def file_of(folder: Path, model: str) -> Path:
    """The path of a model's queue below the folder of counts of the log."""
    return folder / model / f"review-{FORMAT}.db"


@contextmanager
def opened(
    path: Path, *, renews: bool = False, waits_ms: int = sqlite.BUSY_TIMEOUT_MS
) -> Iterator[sqlite3.Connection]:
    """A connection to the file, which is made if it is not there.

    Args:
        renews: whether a damaged file is removed, so that it is made again.
        waits_ms: milliseconds to wait while another process writes.

    Raises:
        Unavailable: the file can't be read or written now, or is damaged.
    """
    try:
        with closing(sqlite.connect(path, tables=TABLES, busy_timeout_ms=waits_ms)) as db:
            db.execute("PRAGMA secure_delete=ON")  # erased rows stay in no page
            yield db
    except sqlite3.OperationalError as error:
        raise Unavailable(f"{path}: {error}") from error
    except (sqlite3.DatabaseError, *NOT_JSON) as error:
        if renews:
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        raise Unavailable(f"{path}: {error}; the next pass makes it again") from error
