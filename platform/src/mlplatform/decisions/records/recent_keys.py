"""The newest idempotency keys: appended in the order of arrival, later moved to their tables.

A key's hash lies in a random place, so a transaction that wrote its keys to their tables would
change a page for each, and a checkpoint would copy all of these pages. Here a batch of keys takes a
page or two. Each connection follows this table and keeps its keys in memory, so a look-up needs no
index. Once there are enough keys they are moved in the order of their hashes, many to a page, in
short transactions beside the answers. A kill at any point leaves keys in both places, never in
none.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, takewhile
from typing import Any, Final

from mlplatform.runtime.storage import sqlite
from mlplatform.runtime.storage.batches import chunks, inserting

LEAST: Final = 32_768
"""Keys that are moved together: 8 MB of memory for each connection. More of them share a page of
their table, and a start reads more."""
ANSWER: Final = "coalesce(answer, (SELECT text FROM answer_shapes s WHERE s.shape = k.shape))"
KEPT: Final = "key, body, decision, shape, score, answer"
STEP: Final = (
    """
CREATE TABLE IF NOT EXISTS recent_keys (
    place INTEGER PRIMARY KEY,
    day INTEGER NOT NULL,
    key BLOB,
    body ANY,
    decision ANY,
    shape INTEGER,
    score REAL,
    answer BLOB
) STRICT""",
)
"""Step of the schema. `day` is that of the table to which a row goes; a key that was dropped is
null. The last row always stays, so that no number is used twice: connections follow the table by
numbers, and AUTOINCREMENT would change a page more in each commit."""
_WIDTH: Final = 8
_SLACK: Final = 1_024
"""Keys that are forgotten together, or a little more."""
_FOLLOWED: Final = 16_384
# One row: at each step of a statement another thread may take the interpreter lock
_ADDED: Final = f"""
SELECT count(*), max(place), group_concat(place || ':' || hex(key)) FROM (
    SELECT place, key FROM recent_keys WHERE place > ? AND key IS NOT NULL
    ORDER BY place LIMIT {_FOLLOWED}
)
"""
_FIND: Final = f"""
SELECT {ANSWER}, shape, score, body, decision FROM recent_keys k WHERE place = ? AND key = ?
"""
_BLANK: Final = (
    "UPDATE recent_keys SET key = NULL, body = NULL, decision = NULL, shape = NULL, score = NULL,"
    " answer = NULL WHERE place = ?"
)
_FEW: Final = 500
"""Rows that one transaction may drop."""
_TODO: Final = (
    "DROP TABLE IF EXISTS temp.moved",
    "CREATE TEMP TABLE moved (number INTEGER PRIMARY KEY, place INTEGER NOT NULL, day INTEGER)",
    "INSERT INTO moved (place, day) SELECT place, day FROM recent_keys WHERE place <= ?"
    " AND key IS NOT NULL ORDER BY day, key",
)
_BITE_S: Final = 0.001
"""Seconds for which one step of a move may keep other transactions waiting."""
_RESTS: Final = 8.0
_FIRST_BITE, _MOST_BITE = 64, 1_024


class RecentKeys:
    """The recent keys as one connection sees them. A transaction that adds keys follows them before
    that, so that none is known here which is rolled back.

    Args:
        db: the connection; it reads the table at each `follow`.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._places: dict[bytes, int] = {}
        """Key → number of its row. A row may have been moved since."""
        self._last = 0

    def follow(self) -> None:
        """Take in the keys that were added since the last call, by whichever process."""
        while self._take() == _FOLLOWED:
            continue
        if len(self._places) > LEAST + _SLACK:
            self._drop_moved()

    def _take(self) -> int:
        """Take in some of the added keys. Returns their number."""
        count, last, added = self._db.execute(_ADDED, (self._last,)).fetchone()
        if not count:
            return 0
        places = self._places
        for row in added.split(","):
            place, _, digits = row.partition(":")
            key = bytes.fromhex(digits)
            places.pop(key, None)  # the oldest places stay in front
            places[key] = int(place)
        self._last = last
        return int(count)

    def has_any(self, keys: Iterable[bytes]) -> bool:
        """Whether one of the keys is here, as of the last `follow`."""
        return any(self._row(key) is not None for key in keys if key in self._places)

    def find(self, key: bytes) -> tuple[Any, ...] | None:
        """Answer or shape, number of the shape, score, body and decision of a key; None if it is
        not here."""
        return self._row(key) if key in self._places else None

    def add(self, rows: Sequence[Sequence[Any]]) -> None:
        """Append rows of day and `KEPT`, within a transaction."""
        for chunk in chunks(rows):
            flat = [value for row in chunk for value in (None, *row)]
            self._db.execute(inserting("recent_keys", _WIDTH, len(chunk)), flat)

    def drop(self, keys: Iterable[bytes]) -> None:
        """Drop keys, within a transaction; rows stay, so that numbers are not used again."""
        found = [(place,) for key in keys if (place := self._places.get(key)) is not None]
        self._db.executemany(_BLANK, found)

    def _row(self, key: bytes) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._db.execute(_FIND, (self._places[key], key)).fetchone()
        return row

    def _drop_moved(self) -> None:
        """Forget some of the oldest keys, as far as their rows were moved."""
        (first,) = self._db.execute("SELECT min(place) FROM recent_keys").fetchone()
        oldest = islice(self._places.items(), 2 * _SLACK)
        for key, _ in list(takewhile(lambda item: item[1] < first, oldest)):
            del self._places[key]


def erase(db: sqlite3.Connection, decisions: frozenset[Any]) -> Iterator[str]:
    """Drop the keys and answers of decisions, in short transactions."""
    rows = db.execute("SELECT place, decision FROM recent_keys WHERE key IS NOT NULL")
    found = [row for row in rows if row[1] in decisions]
    for start in range(0, len(found), _FEW):
        with sqlite.transaction(db):
            db.executemany(f"{_BLANK} AND decision IS ?", found[start : start + _FEW])
        yield "recent answers erased"


def many_end(db: sqlite3.Connection, today: int) -> bool:
    """Whether more keys end with their tables than `expire` should drop: a `Move` leaves few."""
    ending = f"SELECT 1 FROM recent_keys WHERE day <= ? LIMIT {_FEW}, 1"
    return db.execute(ending, (today,)).fetchone() is not None


def expire(db: sqlite3.Connection, today: int) -> None:
    """Drop the keys whose tables end, within a transaction."""
    (last,) = db.execute("SELECT max(place) FROM recent_keys").fetchone()
    db.execute("DELETE FROM recent_keys WHERE day <= ? AND place < ?", (today, last))
    db.execute(f"{_BLANK} AND day <= ?", (last, today))


class Move:
    """One move of all recent keys to their tables; nothing to do if they are few.

    It may stop between any two steps, and two processes may move at once: a key that is in its
    table already is left alone there, and one that was dropped meanwhile is null, and is not taken.

    Args:
        db: a connection of its own, for as long as the move takes.
        table_of: returns the name of a day's table; None if that has ended.
        least: number of keys that are not few.
    """

    def __init__(
        self, db: sqlite3.Connection, table_of: Callable[[int], str | None], least: int
    ) -> None:
        self._db = db
        self._table_of = table_of
        self.steps = 0
        """Steps that were made."""
        self._number = 1
        self._bite = _FIRST_BITE
        self._last, self._count = 0, 0
        (first,) = db.execute("SELECT min(place) FROM recent_keys").fetchone()
        (last,) = db.execute("SELECT max(place) FROM recent_keys").fetchone()
        if first is not None and last - first + 1 >= least:
            for statement in _TODO[:2]:
                db.execute(statement)
            self._count = db.execute(_TODO[2], (last,)).rowcount
            self._last = last

    @property
    def has_more(self) -> bool:
        return self._last > 0

    @property
    def rests(self) -> float:
        """How many times as long as a step took to rest after it: less if keys have piled up."""
        return _RESTS if self._count < 2 * LEAST else 1.0

    @property
    def is_overdue(self) -> bool:
        """Whether so many keys wait that the process which holds the lock must hang."""
        return self._count > 4 * LEAST

    def step(self) -> None:
        """Move or remove some rows in one transaction. Does nothing if another connection holds the
        write lock for longer than `busy_timeout`."""
        self.steps += 1
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            return
        began_s = time.monotonic()
        try:
            if self._number <= self._count:
                self._copy()
            elif not self._remove():
                self._last = 0
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.rollback()
        self._bite = _paced(self._bite, time.monotonic() - began_s)

    def _copy(self) -> None:
        end = min(self._number + self._bite, self._count + 1)
        of_days = self._db.execute(
            "SELECT DISTINCT day FROM moved WHERE number >= ? AND number < ?", (self._number, end)
        ).fetchall()
        for (day,) in of_days:
            if (table := self._table_of(day)) is None:
                continue
            self._db.execute(
                f"INSERT OR IGNORE INTO {table} SELECT {KEPT} FROM moved CROSS JOIN recent_keys r"
                " USING (place) WHERE number >= ? AND number < ? AND r.day = ?"
                " ORDER BY number",
                (self._number, end, day),
            )
        self._number = end

    def _remove(self) -> bool:
        """Remove some of the rows that were moved, the oldest first. Returns whether there may be
        more."""
        bite = (
            "SELECT place FROM recent_keys WHERE place <= ? AND place <"
            " (SELECT max(place) FROM recent_keys) ORDER BY place LIMIT ?"
        )
        gone = f"DELETE FROM recent_keys WHERE place IN ({bite})"
        return self._db.execute(gone, (self._last, self._bite)).rowcount > 0


def _paced(rows: int, took_s: float) -> int:
    """How many rows the next step takes, after one that took so long."""
    if took_s > _BITE_S:
        return max(rows // 2, 1)
    return min(rows * 2, _MOST_BITE) if took_s < _BITE_S / 2 else rows
