"""Buckets of one model in a file that only new records of the log advance.

The file holds the log position that it stands for, and follows from the log: it may be deleted at
any time, and is counted again. A portion is one transaction, so a killed process leaves the file
as it was before the portion or after it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import numpy as np
import pyarrow as pa

from mlplatform.decisions.records.port import RecordQuery, Watermark
from mlplatform.operations.traffic import buckets
from mlplatform.operations.traffic.buckets import Counts, Key
from mlplatform.rollouts.cache.portions import up_to
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.storage import sqlite
from mlplatform.runtime.units import DAY_MS, HOUR_MS

PORTION: Final = 50_000
"""Most records of each writer that are counted in one transaction."""
BUDGET_S: Final = 10.0
"""Seconds after which an advance stops; the next one continues."""
SAMPLE_EVERY_MS: Final = HOUR_MS
SAMPLES_KEPT_MS: Final = 32 * DAY_MS
FORMAT: Final = 1
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS buckets (
    length_ms INTEGER NOT NULL,
    start_ms INTEGER NOT NULL,
    role TEXT NOT NULL,
    version INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    degraded INTEGER NOT NULL,
    alerts INTEGER NOT NULL,
    latency BLOB NOT NULL,
    PRIMARY KEY (length_ms, start_ms, role, version)
) STRICT;
CREATE TABLE IF NOT EXISTS position (writer TEXT PRIMARY KEY, seq INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS newest (only_one INTEGER PRIMARY KEY, event_ms INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS counted (only_one INTEGER PRIMARY KEY, event_ms INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS samples (
    of TEXT NOT NULL,
    start_ms INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (of, start_ms)
) STRICT;
"""


class LogReader(Protocol):
    """The part of `DecisionLog` that counting uses."""

    def watermarks(self) -> Sequence[Watermark]: ...

    def read(self, query: RecordQuery) -> pa.Table: ...


@dataclass(frozen=True, slots=True)
class TrafficBucket:
    """One bucket: its range of event time, role, version and counts."""

    start_ms: int
    role: str
    version: int
    counts: Counts


@dataclass(frozen=True, slots=True)
class TrafficReport:
    """The counts of a model's traffic in a range of event time.

    Args:
        length_ms: length of each bucket in milliseconds.
        newest_ms: event time of the newest record that was counted.
        position: per writer, the number of the last record that was counted.
        samples: kind → pairs of a time and the sample taken then, oldest first: those of the
            range, or the newest one before it.
        counted_ms: event time until which everything in the log was counted; None if that is not
            known.
    """

    length_ms: int
    newest_ms: int
    position: Mapping[str, int]
    buckets: tuple[TrafficBucket, ...]
    samples: Mapping[str, tuple[tuple[int, Any], ...]]
    counted_ms: int | None = None


def file_of(folder: Path, model: str) -> Path:
    """The path of a model's projection below the folder of counts of the log."""
    return folder / model / f"traffic-{FORMAT}.db"


def advance(
    path: Path,
    log: LogReader,
    model: str,
    *,
    alerting: Sequence[str],
    portion: int = PORTION,
    budget_s: float = BUDGET_S,
) -> bool:
    """Count new records of the log; returns whether all were counted.

    Args:
        alerting: the decisions that are alerts by the model's present definition.

    Raises:
        Unavailable: the log or the file can't be read or written now.
    """
    give_up_s = time.monotonic() + budget_s
    marks = {mark.writer: mark.seq for mark in log.watermarks()}
    with _opened(path, renews=True) as db:
        if any(marks.get(writer, 0) < seq for writer, seq in _position(db).items()):
            _forget(db)  # the log was restored: count it from its beginning
        while _add(db, log, model, marks, alerting, portion):
            if time.monotonic() > give_up_s:
                return False
    return True


def reach(path: Path, event_ms: int) -> None:
    """Store that everything in the log was counted until this event time.

    Raises:
        Unavailable: the file can't be written now.
    """
    with _opened(path) as db, sqlite.transaction(db):
        db.execute("INSERT OR REPLACE INTO counted VALUES (1, ?)", (event_ms,))


def sample(path: Path, of: str, event_ms: int, body: object) -> None:
    """Store a sample; of each hour of event time, one is kept.

    Raises:
        Unavailable: the file can't be written now.
    """
    start_ms = event_ms - event_ms % SAMPLE_EVERY_MS
    text = msgspec.json.encode(body).decode()
    with _opened(path) as db, sqlite.transaction(db):
        db.execute("INSERT OR REPLACE INTO samples VALUES (?, ?, ?)", (of, start_ms, text))
        late_ms = start_ms - SAMPLES_KEPT_MS
        db.execute("DELETE FROM samples WHERE of = ? AND start_ms < ?", (of, late_ms))


def read(path: Path, back_ms: int) -> TrafficReport | None:
    """The newest range of event time, in the shortest buckets that reach back so far.

    Returns None where nothing was counted yet.

    Raises:
        Unavailable: the file can't be read now.
    """
    if not path.is_file():
        return None
    level = next((one for one in buckets.LEVELS if one.keep_ms >= back_ms), buckets.LEVELS[-1])
    with _opened(path) as db:
        db.execute("BEGIN")
        newest = db.execute("SELECT event_ms FROM newest").fetchone()
        if newest is None:
            return None
        from_ms = newest[0] - back_ms
        rows = db.execute(
            "SELECT start_ms, role, version, requests, degraded, alerts, latency FROM buckets"
            " WHERE length_ms = ? AND start_ms >= ? ORDER BY start_ms, role, version",
            (level.length_ms, from_ms - level.length_ms),
        ).fetchall()
        samples: dict[str, list[tuple[int, Any]]] = {}
        kept = (
            "SELECT of, start_ms, body FROM samples WHERE start_ms >= min(?, (SELECT max(start_ms)"
            " FROM samples AS every WHERE every.of = samples.of)) ORDER BY start_ms"
        )
        for of, start_ms, body in db.execute(kept, (from_ms,)):
            samples.setdefault(of, []).append((start_ms, msgspec.json.decode(body)))
        position = _position(db)
        counted = db.execute("SELECT event_ms FROM counted").fetchone()
    return TrafficReport(
        length_ms=level.length_ms,
        newest_ms=newest[0],
        position=position,
        buckets=tuple(TrafficBucket(row[0], row[1], row[2], _counts(row[3:])) for row in rows),
        samples={of: tuple(found) for of, found in samples.items()},
        counted_ms=None if counted is None else counted[0],
    )


@contextmanager
def _opened(path: Path, *, renews: bool = False) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite.connect(path, tables=_TABLES)) as db:
            yield db
    except sqlite3.OperationalError as error:
        raise Unavailable(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        if renews:
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        raise Unavailable(f"{path}: {error}; the next pass counts it again") from error


def _add(
    db: sqlite3.Connection,
    log: LogReader,
    model: str,
    marks: Mapping[str, int],
    alerting: Sequence[str],
    portion: int,
) -> bool:
    """Count a portion of the log; returns whether there may be more."""
    with sqlite.transaction(db):
        position = _position(db)
        if position == marks:
            return False
        query = RecordQuery(
            model=model, kinds=buckets.KINDS, after=position, limit=portion, columns=buckets.COLUMNS
        )
        table = log.read(query)
        come_to, full = read_positions(table, marks, portion)
        table = up_to(table, come_to)
        write(db, buckets.bucket_counts(table, alerting))
        if len(table):
            _move_newest(db, int(np.max(table.column("event_ms").to_numpy())))
        db.executemany("INSERT OR REPLACE INTO position VALUES (?, ?)", come_to.items())
        return full


def write(db: sqlite3.Connection, found: Mapping[Key, Counts]) -> None:
    """Add counts to the stored buckets."""
    where = "length_ms = ? AND start_ms = ? AND role = ? AND version = ?"
    query = f"SELECT requests, degraded, alerts, latency FROM buckets WHERE {where}"
    for key, counts in found.items():
        held = db.execute(query, key).fetchone()
        total = counts if held is None else counts.plus(_counts(held))
        row = (total.requests, total.degraded, total.alerts, _blob(total))
        db.execute("INSERT OR REPLACE INTO buckets VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*key, *row))


def _move_newest(db: sqlite3.Connection, event_ms: int) -> None:
    """Update the newest event time, and delete buckets that are too old for it."""
    move = (
        "INSERT INTO newest VALUES (1, ?) ON CONFLICT (only_one)"
        " DO UPDATE SET event_ms = max(event_ms, excluded.event_ms) RETURNING event_ms"
    )
    newest_ms = db.execute(move, (event_ms,)).fetchone()[0]
    for level in buckets.LEVELS:
        old = (level.length_ms, buckets.horizon(level, newest_ms))
        db.execute("DELETE FROM buckets WHERE length_ms = ? AND start_ms < ?", old)


def read_positions(
    table: pa.Table, marks: Mapping[str, int], portion: int
) -> tuple[dict[str, int], bool]:
    """The last number read of each writer, and whether some writer may have more."""
    come_to, full = dict(marks), False
    groups = table.select(["writer", "seq"]).group_by("writer", use_threads=False)
    for row in groups.aggregate([("seq", "max"), ("seq", "count")]).to_pylist():
        if row["seq_count"] >= portion:
            full = True
            last = min(row["seq_max"], marks.get(row["writer"], row["seq_max"]))
            come_to[row["writer"]] = last
    return come_to, full


def _position(db: sqlite3.Connection) -> dict[str, int]:
    return dict(db.execute("SELECT writer, seq FROM position"))


def _forget(db: sqlite3.Connection) -> None:
    with sqlite.transaction(db):
        for table in ("buckets", "position", "newest", "counted", "samples"):
            db.execute(f"DELETE FROM {table}")


def _counts(row: Sequence[Any]) -> Counts:
    return Counts(row[0], row[1], row[2], np.frombuffer(row[3], dtype="<u4").astype(np.int64))


def _blob(counts: Counts) -> bytes:
    return np.minimum(counts.latency, 2**32 - 1).astype("<u4").tobytes()
