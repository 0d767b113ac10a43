"""Topics in one SQLite database, for any number of processes of one machine, without a server."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from mlplatform.decisions.topics.local_group import LocalSubscription, translated
from mlplatform.decisions.topics.messages import Message, Progress, TopicSpec, partition_of
from mlplatform.runtime.clock import SystemClock
from mlplatform.runtime.errors import Busy, NotFound, StaleFence
from mlplatform.runtime.storage import sqlite
from mlplatform.runtime.storage.sql import Schema

SCHEMA: Final = Schema(
    "topics",
    (
        (
            """
CREATE TABLE IF NOT EXISTS topics (
    name TEXT PRIMARY KEY,
    partitions INTEGER NOT NULL,
    retention_ms INTEGER NOT NULL,
    max_messages INTEGER NOT NULL
) STRICT""",
            """
CREATE TABLE IF NOT EXISTS partitions (
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    first_offset INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)
) STRICT, WITHOUT ROWID""",
            """
CREATE TABLE IF NOT EXISTS messages (
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    published_ms INTEGER NOT NULL,
    key BLOB NOT NULL,
    value BLOB NOT NULL,
    headers BLOB NOT NULL,
    PRIMARY KEY (topic, partition, offset)
) STRICT""",
            """
CREATE TABLE IF NOT EXISTS offsets (
    grp TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    PRIMARY KEY (grp, topic, partition)
) STRICT, WITHOUT ROWID""",
            """
CREATE TABLE IF NOT EXISTS members (
    grp TEXT NOT NULL,
    member TEXT NOT NULL,
    life INTEGER NOT NULL,
    seen_ms INTEGER NOT NULL,
    PRIMARY KEY (grp, member)
) STRICT, WITHOUT ROWID""",
            """
CREATE TABLE IF NOT EXISTS claims (
    grp TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    member TEXT NOT NULL,
    life INTEGER NOT NULL,
    PRIMARY KEY (grp, topic, partition)
) STRICT, WITHOUT ROWID""",
            """
CREATE TABLE IF NOT EXISTS progress (
    name TEXT PRIMARY KEY,
    life INTEGER NOT NULL,
    value BLOB
) STRICT""",
        ),
    ),
)
"""The migrations of the tables. Files from before schema versions have the tables of the first step
already."""

DECLARE: Final = """
INSERT INTO topics VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET
    retention_ms = excluded.retention_ms, max_messages = excluded.max_messages
"""
SESSION_MS: Final = 6_000
SWEEP_S: Final = 10.0
SWEPT_AT_ONCE: Final = 2_000
_SYSTEM = SystemClock()
_headers = msgspec.json.Encoder().encode


class LocalTopics:
    """A durable log of messages with groups, like Kafka's, in one file.

    A message that a group has not read is never deleted: a partition that is full of such messages
    accepts no more. Messages that every group has read go after the retention, or as soon as their
    space is needed. If no group reads a topic, its oldest messages go.

    Args:
        path: file of the database; it is created at first use.
        specs: topics to declare; an existing topic keeps its number of partitions.
        session_ms: milliseconds without a sign of life after which a member counts as dead.
        durable: fsync each publication. Without it, publications survive killed processes but not
            power loss.
    """

    def __init__(
        self,
        path: Path,
        specs: Sequence[TopicSpec] = (),
        *,
        wall_ms: Callable[[], int] = _SYSTEM.wall_ms,
        session_ms: int = SESSION_MS,
        durable: bool = False,
    ) -> None:
        self._path = path
        self._wall_ms = wall_ms
        self._session_ms = session_ms
        self._durable = durable
        self._lives: dict[str, int] = {}
        self._lock = threading.Lock()
        self._sweep_s = 0.0
        with translated():
            self._db = sqlite.connect(path, schema=SCHEMA, durable=durable, threads=True)
            with sqlite.transaction(self._db):
                for spec in specs:
                    _declare(self._db, spec)

    def publish(self, messages: Sequence[Message], progress: Progress | None = None) -> None:
        """Make messages durable in one transaction, with a projection's progress if there is
        one."""
        with self._lock, translated(), sqlite.transaction(self._db):
            if progress is not None:
                self._advance(progress)
            insert(self._db, messages, self._wall_ms())
            if time.monotonic() >= self._sweep_s:
                self._sweep_s = time.monotonic() + SWEEP_S
                sweep(self._db, self._wall_ms())

    def progress(self, name: str) -> bytes | None:
        """The progress published last; other publishers of that name are refused from now on."""
        with self._lock, translated(), sqlite.transaction(self._db):
            row = self._db.execute(
                "INSERT INTO progress VALUES (?, 1, NULL) ON CONFLICT (name) DO UPDATE"
                " SET life = life + 1 RETURNING life, value",
                (name,),
            ).fetchone()
            self._lives[name] = row[0]
        value: bytes | None = row[1]
        return value

    def subscribe(self, topics: Sequence[str], group: str, member: str) -> LocalSubscription:
        """Join a group. An earlier process of this member that still runs is refused from now
        on."""
        with translated():
            db = sqlite.connect(self._path, durable=self._durable, threads=True)
            for topic in topics:
                _partitions(db, topic)
        return LocalSubscription(
            db, tuple(topics), group, member, self._wall_ms, self._session_ms, insert
        )

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _advance(self, progress: Progress) -> None:
        changed = self._db.execute(
            "UPDATE progress SET value = ? WHERE name = ? AND life = ?",
            (progress.value, progress.name, self._lives.get(progress.name, -1)),
        )
        if changed.rowcount != 1:
            raise StaleFence(f"another process publishes {progress.name!r}; this one must stop")


def insert(db: sqlite3.Connection, messages: Sequence[Message], now_ms: int) -> None:
    """Append messages to their partitions, within the caller's transaction.

    Raises:
        NotFound: a topic is not declared.
        Busy: a partition is full.
    """
    sorted_out: dict[tuple[str, int], list[Message]] = defaultdict(list)
    counts: dict[str, int] = {}
    for message in messages:
        if message.topic not in counts:
            counts[message.topic] = _partitions(db, message.topic)
        place = message.topic, partition_of(message.key, counts[message.topic])
        sorted_out[place].append(message)
    for (topic, partition), batch in sorted_out.items():
        offset = _reserve(db, topic, partition, len(batch))
        db.executemany(
            "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (topic, partition, offset + i, now_ms, m.key, m.value, _packed(m))
                for i, m in enumerate(batch)
            ],
        )


def sweep(db: sqlite3.Connection, now_ms: int) -> int:
    """Delete a bounded number of messages that are old and that every group has read."""
    swept = 0
    rows = db.execute(
        "SELECT topic, partition, first_offset, next_offset, retention_ms"
        " FROM partitions JOIN topics ON topics.name = topic"
    ).fetchall()
    for topic, partition, first, following, retention_ms in rows:
        end = min(_read_by_all(db, topic, partition, following), first + SWEPT_AT_ONCE)
        young = db.execute(
            "SELECT min(offset) FROM messages WHERE topic = ? AND partition = ? AND offset >= ?"
            " AND offset < ? AND published_ms > ?",
            (topic, partition, first, end, now_ms - retention_ms),
        ).fetchone()[0]
        swept += _delete(db, topic, partition, first, end if young is None else young)
    return swept


def _declare(db: sqlite3.Connection, spec: TopicSpec) -> None:
    db.execute(DECLARE, (spec.name, spec.partitions, spec.retention_ms, spec.max_messages))
    db.executemany(
        "INSERT OR IGNORE INTO partitions VALUES (?, ?, 0, 0)",
        [(spec.name, number) for number in range(_partitions(db, spec.name))],
    )


def _partitions(db: sqlite3.Connection, topic: str) -> int:
    row = db.execute("SELECT partitions FROM topics WHERE name = ?", (topic,)).fetchone()
    if row is None:
        raise NotFound(f"there is no topic {topic!r}")
    count: int = row[0]
    return count


def _reserve(db: sqlite3.Connection, topic: str, partition: int, count: int) -> int:
    """The first of `count` new offsets; makes room where that loses nothing."""
    first, following, most = db.execute(
        "SELECT first_offset, next_offset, max_messages FROM partitions"
        " JOIN topics ON topics.name = topic WHERE topic = ? AND partition = ?",
        (topic, partition),
    ).fetchone()
    surplus = following + count - first - most
    if surplus > 0:
        end = min(first + surplus, _read_by_all(db, topic, partition, following))
        if _delete(db, topic, partition, first, end) < surplus:
            raise Busy(f"partition {partition} of topic {topic!r} is full: {most} messages wait")
    db.execute(
        "UPDATE partitions SET next_offset = ? WHERE topic = ? AND partition = ?",
        (following + count, topic, partition),
    )
    start: int = following
    return start


def _read_by_all(db: sqlite3.Connection, topic: str, partition: int, following: int) -> int:
    """The offset up to which every group has read; the end if there is no group."""
    row = db.execute(
        "SELECT min(next_offset) FROM offsets WHERE topic = ? AND partition = ?",
        (topic, partition),
    ).fetchone()
    return following if row[0] is None else int(row[0])


def _delete(db: sqlite3.Connection, topic: str, partition: int, first: int, end: int) -> int:
    if end <= first:
        return 0
    db.execute(
        "DELETE FROM messages WHERE topic = ? AND partition = ? AND offset < ?",
        (topic, partition, end),
    )
    db.execute(
        "UPDATE partitions SET first_offset = ? WHERE topic = ? AND partition = ?",
        (end, topic, partition),
    )
    return end - first


def _packed(message: Message) -> bytes:
    return _headers(message.headers)
