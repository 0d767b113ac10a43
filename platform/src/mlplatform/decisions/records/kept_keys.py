"""Idempotency keys in decisions.db: narrow tables, one for those that end within a few days.

A row holds a hash of the key, the request's digest, the decision's id, and the values that
distinguish its answer from others of the same shape. New keys come to `recent_keys` first. A table
ends as a whole: one short transaction removes it from the view of kept keys, and its pages are
freed in small steps afterwards.
"""

from __future__ import annotations

import hashlib
import sqlite3
import struct
from collections.abc import Iterator, Sequence, Set
from functools import cache, partial
from typing import Any, Final, NamedTuple

from mlplatform.decisions.records import recent_keys
from mlplatform.decisions.records.port import StoredAnswer, shortened
from mlplatform.decisions.records.prepared_record import Key, StorableRecord
from mlplatform.runtime.storage import sqlite
from mlplatform.runtime.storage.batches import chunks
from mlplatform.runtime.units import DAY_MS

_PARTS: Final = 2
"""Number of tables over which the time of a claim is divided, by whole days; each costs a
look-up."""
_DIGEST_BYTES: Final = 16
_LENGTHS: Final = struct.Struct("<3Q").pack
_MOST_SHAPES: Final = 4_096
"""Most shapes per process and table; an answer of a further shape is stored whole."""
_ID, _SCORE = b"\x00", b"\x01"
_BITE_KEYS: Final = 500
_STEP_WAIT_MS: Final = 1
STEP: Final = (
    "CREATE TABLE IF NOT EXISTS answer_shapes (shape INTEGER PRIMARY KEY, text BLOB NOT NULL"
    " UNIQUE, day INTEGER NOT NULL) STRICT",
    "CREATE VIEW IF NOT EXISTS kept_keys AS SELECT NULL AS key, NULL AS body, NULL AS decision,"
    " NULL AS shape, NULL AS score, NULL AS answer WHERE 0",
)
"""Step of the schema. `day` is the last table whose rows have the shape."""
_TABLE: Final = """
CREATE TABLE {name} (
    key BLOB PRIMARY KEY,
    body ANY NOT NULL,
    decision ANY NOT NULL,
    shape INTEGER,
    score REAL,
    answer BLOB
) STRICT, WITHOUT ROWID
"""
_FIND: Final = f"""
SELECT {recent_keys.ANSWER}, shape, score, body, decision FROM kept_keys k WHERE key = ?
"""
_FIND_EARLIER: Final = """
SELECT answer, body_digest, decision_id FROM idempotency
WHERE client = ? AND model = ? AND key = ?
"""
_SHAPE: Final = """
INSERT INTO answer_shapes (text, day) VALUES (?, ?)
ON CONFLICT (text) DO UPDATE SET day = max(day, excluded.day)
RETURNING shape
"""


class KeyTaken(Exception):
    """At least one key of a batch is kept already, or occurs twice in it."""


def key_digest(client: str, model: str, key: str) -> bytes:
    """A short name for a key, 16 bytes.

    The probability that two of n keys of an installation have the same digest is n**2 / 2**129:
    10**-15 for 10**12 keys. A search for two such keys takes 2**64 trials. At best it gives an
    answer of the same client and model, because both are hashed too.
    """
    parts = client.encode(), model.encode(), key.encode()
    framed = _LENGTHS(*map(len, parts)) + b"".join(parts)
    return hashlib.blake2b(framed, digest_size=_DIGEST_BYTES).digest()


class KeptKeys:
    """The kept keys as one connection sees them.

    Args:
        db: the connection; each call reads what is committed by then.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.recent = recent_keys.RecentKeys(db)
        self.has_earlier = db.execute("SELECT 1 FROM idempotency LIMIT 1").fetchone() is not None
        """Whether keys of an earlier release are left; once there are none, nobody writes any."""

    def find(self, key: Key) -> StoredAnswer | None:
        """The answer kept under a client, model and key."""
        self.recent.follow()  # first: what is moved meanwhile is in its table then
        digest = key_digest(*key)
        row = self.recent.find(digest) or self._db.execute(_FIND, (digest,)).fetchone()
        if row is not None:
            text, shape, score, body, decision = row
            decision_id = _unpacked(decision)
            answer = text if shape is None else filled(text, decision_id, score)
            return StoredAnswer(answer, _unpacked(body), decision_id)
        row = self._db.execute(_FIND_EARLIER, key).fetchone() if self.has_earlier else None
        return None if row is None else StoredAnswer(*row)

    def find_all(self, keys: Sequence[Key]) -> list[StoredAnswer | None]:
        """The answers for several keys, as `find` gives each. Two statements are enough if none is
        kept, which is the most frequent case."""
        is_alone = len(keys) == 1  # then `find` is one statement less
        if is_alone or self.has_any([key_digest(*key) for key in keys]) or self.has_earlier:
            return [self.find(key) for key in keys]
        return [None] * len(keys)

    def has_any(self, digests: Sequence[bytes]) -> bool:
        """Whether one of these keys is kept; keys of an earlier release do not count."""
        self.recent.follow()
        return self.recent.has_any(digests) or any(
            self._db.execute(_are_any(len(chunk)), chunk).fetchone() is not None
            for chunk in chunks(digests)
        )


class _Table(NamedTuple):
    day: int
    name: str
    shapes: dict[bytes, int]
    """Numbers of shapes by their text, as far as this process has met them."""


class KeyWriter:
    """Writes keys in transactions of its caller, who reports a transaction that failed.

    Args:
        db: connection that is inside a write transaction at every call but `forget`.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.kept = KeptKeys(db)
        self._tables: dict[int, _Table] = {}
        """The existing tables that are known, by day."""

    def forget(self) -> None:
        """Forget tables and shapes that a rolled-back transaction made."""
        self._tables.clear()

    def write(self, items: Sequence[StorableRecord], now_ms: int) -> None:
        """Store the answers of items that have a key.

        Raises:
            KeyTaken: an answer is stored under one of the keys already, or two items have the same
                key. The caller must roll back.
        """
        keys = [key_digest(*key) for item in items if (key := item.key) is not None]
        if len(set(keys)) < len(keys) or self._are_kept(keys, items):
            raise KeyTaken
        rows: list[tuple[Any, ...]] = []
        names = set()
        for digest, item in zip(keys, items, strict=True):
            assert item.idempotency is not None
            day = _last_day(now_ms, item.idempotency.keep_ms)
            table = self._tables.get(day) or self._open_table(day, now_ms)
            names.add(table.name)
            rows.append((day, *self._row(digest, item, table)))
        for name in names:
            # fails if another process has ended the table, and shapes with it
            self._db.execute(f"SELECT 1 FROM {name} LIMIT 0")
        self.kept.recent.add(rows)

    def end(self, keys: Sequence[Key]) -> None:
        """Drop the keys whose claims end, as far as they are there."""
        digests = [key_digest(*key) for key in keys]
        self.kept.recent.follow()
        self.kept.recent.drop(digests)
        if any(self._db.execute(_FIND, (digest,)).fetchone() for digest in digests):
            for table in _tables(self._db, "keys"):
                query = f"DELETE FROM {table} WHERE key = ?"
                self._db.executemany(query, [(digest,) for digest in digests])
        if self.kept.has_earlier:
            query = "DELETE FROM idempotency WHERE client = ? AND model = ? AND key = ?"
            self._db.executemany(query, keys)

    def _are_kept(self, keys: Sequence[bytes], items: Sequence[StorableRecord]) -> bool:
        return self.kept.has_any(keys) or (
            self.kept.has_earlier
            and any(self._db.execute(_FIND_EARLIER, item.key or ()).fetchone() for item in items)
        )

    def _row(self, digest: bytes, item: StorableRecord, table: _Table) -> tuple[Any, ...]:
        idempotency, decision_id, shapes = item.idempotency, item.decision_id, table.shapes
        assert idempotency is not None
        head = (digest, _packed(shortened(idempotency.body_digest)), _packed(decision_id))
        if idempotency.impersonal:
            text, score = shaped(idempotency.answer, decision_id, item.score)
            shape = None if text is None else shapes.get(text)
            if text is not None and shape is None and len(shapes) < _MOST_SHAPES:
                (shape,) = self._db.execute(_SHAPE, (text, table.day)).fetchone()
                shapes[text] = shape
            if shape is not None:
                return (*head, shape, score, None)
        return (*head, None, None, idempotency.answer)

    def _open_table(self, day: int, now_ms: int) -> _Table:
        """The table of a day; it is made if it does not exist."""
        for ended in [one for one in self._tables if one * DAY_MS <= now_ms]:
            del self._tables[ended]
        name = _table_of(self._db, day)
        if name is None:
            # A table name is never used again: a process that still uses an ended table then fails.
            # Otherwise it would write numbers of shapes that no longer exist, or that mean other
            # shapes by then.
            (version,) = self._db.execute("PRAGMA schema_version").fetchone()
            name = f"keys_{day}_{version}"
            self._db.execute(_TABLE.format(name=name))
            _show(self._db)
        return self._tables.setdefault(day, _Table(day, name, {}))


@cache
def _are_any(count: int) -> str:
    if count == 1:
        return "SELECT 1 FROM kept_keys WHERE key = ?"
    # by a join: with IN, SQLite would make a list of all keys for each table of the view
    keys = ",".join(["(?)"] * count)
    return f"WITH v(key) AS (VALUES {keys}) SELECT 1 FROM v CROSS JOIN kept_keys k USING (key)"


def expire(db: sqlite3.Connection, now_ms: int) -> Iterator[str]:
    """Drop tables of keys whose time has passed, in short transactions that may stop anywhere.

    After the step "keys ended" no key of an ended table is found any more. The later steps only
    free pages.
    """
    yield from _empty(db)
    today = now_ms // DAY_MS
    if _ended(db, today):
        if recent_keys.many_end(db, today):
            move = recent_keys.Move(db, partial(_table_of, db), least=1)
            while move.has_more:
                with sqlite.throttled():
                    move.step()
                yield "recent keys moved"
        with sqlite.throttled(), sqlite.transaction(db):
            db.execute("DROP VIEW kept_keys")
            for table in _ended(db, today):  # query again: other processes end tables too
                db.execute(f"ALTER TABLE {table} RENAME TO ended_{table}")
            recent_keys.expire(db, today)
            db.execute("DELETE FROM answer_shapes WHERE day <= ?", (today,))
            _show(db)
        yield "keys ended"
        yield from _empty(db)
    while _delete_earlier(db, now_ms):
        yield "expired keys of an earlier release deleted"


def _ended(db: sqlite3.Connection, today: int) -> list[str]:
    return [table for table in _tables(db, "keys") if _day(table) <= today]


def move_recent(db: sqlite3.Connection) -> recent_keys.Move:
    """A move of the recent keys to their tables. The connection is the move's own: if there is one,
    it neither waits for other writers any more nor makes checkpoints in its steps."""
    move = recent_keys.Move(db, partial(_table_of, db), recent_keys.LEAST)
    if move.has_more:
        db.execute("PRAGMA wal_autocheckpoint=0")
        db.execute(f"PRAGMA busy_timeout={_STEP_WAIT_MS}")
    return move


def _table_of(db: sqlite3.Connection, day: int) -> str | None:
    return next((table for table in _tables(db, "keys") if _day(table) == day), None)


def erase(db: sqlite3.Connection, decisions: Set[str], bite: int = _BITE_KEYS) -> Iterator[str]:
    """Drop the keys and answers of decisions, in short transactions."""
    packed = frozenset(_packed(one) for one in decisions)
    yield from recent_keys.erase(db, packed)
    for table in [*_tables(db, "keys"), *_tables(db, "ended_keys")]:
        found = [
            row for row in db.execute(f"SELECT key, decision FROM {table}") if row[1] in packed
        ]
        yield from _deleted(db, f"DELETE FROM {table} WHERE key = ? AND decision = ?", found, bite)
    query = "SELECT rowid, decision_id FROM idempotency"
    found = [row for row in db.execute(query) if row[1] in decisions]
    # another key may have the number of a removed key
    earlier = "DELETE FROM idempotency WHERE rowid = ? AND decision_id = ?"
    yield from _deleted(db, earlier, found, bite)


def _deleted(
    db: sqlite3.Connection, statement: str, found: Sequence[Any], bite: int
) -> Iterator[str]:
    for start in range(0, len(found), bite):
        with sqlite.transaction(db):
            db.executemany(statement, found[start : start + bite])
        yield "kept answers erased"


def _empty(db: sqlite3.Connection) -> Iterator[str]:
    # a table is dropped once it is empty: DROP reads each page of it under the lock
    for table in _tables(db, "ended_keys"):
        some = f"SELECT key FROM {table} ORDER BY key LIMIT {_BITE_KEYS}"
        bite = f"DELETE FROM {table} WHERE key <= (SELECT max(key) FROM ({some}))"
        while True:
            with sqlite.throttled(), sqlite.transaction(db):
                if table not in _tables(db, "ended_keys"):  # another process dropped it
                    break
                if not db.execute(bite).rowcount:
                    db.execute(f"DROP TABLE {table}")
                    break
            yield "ended keys deleted"


def _delete_earlier(db: sqlite3.Connection, now_ms: int) -> int:
    expired = (
        "SELECT rowid FROM idempotency WHERE expires_at_ms <= ? ORDER BY expires_at_ms LIMIT ?"
    )
    with sqlite.throttled(), sqlite.transaction(db):
        query = f"DELETE FROM idempotency WHERE rowid IN ({expired})"
        return db.execute(query, (now_ms, _BITE_KEYS // 8)).rowcount


def _show(db: sqlite3.Connection) -> None:
    """Define the view over the tables that exist, the last to end first."""
    db.execute("DROP VIEW IF EXISTS kept_keys")
    tables = sorted(_tables(db, "keys"), key=_day, reverse=True)
    if not tables:
        db.execute(STEP[1])
        return
    arms = " UNION ALL ".join(f"SELECT {recent_keys.KEPT} FROM {table}" for table in tables)
    db.execute(f"CREATE VIEW kept_keys AS {arms}")


def _tables(db: sqlite3.Connection, start: str) -> list[str]:
    query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB ?"
    return [name for (name,) in db.execute(query, (f"{start}_[0-9]*",))]


def _day(table: str) -> int:
    """The day at whose beginning a table ends, counted from 1970 in UTC."""
    return int(table.removeprefix("ended_").split("_")[1])


def _last_day(now_ms: int, keep_ms: int) -> int:
    """The day at which the table of a claim made now ends, never before the claim does."""
    width = max(1, keep_ms // (_PARTS * DAY_MS))
    return -(-(now_ms + keep_ms) // (width * DAY_MS)) * width


def _packed(text: str) -> bytes | str:
    """Lower-case hexadecimal digits in half their size; any other text unchanged."""
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        return text
    return raw if raw.hex() == text else text


def _unpacked(stored: bytes | str) -> str:
    return stored.hex() if isinstance(stored, bytes) else stored


def shaped(
    answer: bytes, decision_id: str, score: float | None
) -> tuple[bytes | None, float | None]:
    """An answer with placeholders for its decision's id and its score; None if it holds a
    placeholder's text already.

    The score is returned only if it was found in the answer.
    """
    if _ID in answer or _SCORE in answer:
        return None, None
    name = decision_id.encode()
    shape = answer.replace(name, _ID) if name else answer
    if score is not None and score > 0:
        number = _number(score)
        if number in shape:
            return shape.replace(number, _SCORE, 1), score
    return shape, None


def filled(shape: bytes, decision_id: str, score: float | None) -> bytes:
    if score is not None:
        shape = shape.replace(_SCORE, _number(score))
    return shape.replace(_ID, decision_id.encode())


def _number(score: float) -> bytes:
    """The text that msgspec 0.22 writes for a positive float. It must never change, because kept
    answers hold it."""
    digits, _, exponent = repr(score).partition("e")
    if exponent == "-05":
        digits = "0.0000" + digits.replace(".", "")
    elif exponent:
        digits += f"e{int(exponent)}"
    return digits.encode()
