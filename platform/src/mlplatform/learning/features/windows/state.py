"""The state of real-time windows: tiles of each entity, beside the decision log's records.

The state is a projection of the log: a transaction that writes records also adds them to their
entities' tiles, and stores the position per writer. So a record is counted once, whichever process
dies and when. The next request of its customer finds it in every process. Served values can be made
again from the log, because the positions say which records they were made of.

Windows of one model share series of tiles (`model.windows.tiles`). A series is identified by its
whole declaration: a changed one is another series, built beside the old one. Every process that
writes records updates all existing series.
"""

from __future__ import annotations

import logging
import sqlite3
import struct
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from mlplatform.decisions.records import unsealed_records
from mlplatform.decisions.records.projection import ProjectedRecord
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.windows.tiles import Columns, Series, fold, series_of
from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.storage import sqlite
from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter
from mlplatform.runtime.units import DAY_MS

TABLES: Final = """
CREATE TABLE IF NOT EXISTS window_series (
    id INTEGER PRIMARY KEY,
    model TEXT NOT NULL,
    declaration TEXT NOT NULL,
    UNIQUE (model, declaration)
) STRICT;
CREATE TABLE IF NOT EXISTS window_tiles (
    series INTEGER NOT NULL,
    key ANY NOT NULL,
    tiles BLOB NOT NULL,
    UNIQUE (series, key)
) STRICT;
CREATE TABLE IF NOT EXISTS window_positions (
    model TEXT NOT NULL,
    writer TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (model, writer)
) STRICT, WITHOUT ROWID;
"""
KEPT_MS: Final = 8 * DAY_MS
"""Milliseconds that an entity's tiles are kept beyond its windows: a request may be answered a week
after it was accepted."""
SWEPT_A_ROW: Final = 2
"""Number of entities that are checked for each one that a transaction writes. With only one, new
entities could come faster than old ones are dropped."""
CAUGHT_UP_AT_ONCE: Final = 200
"""Most records of another writer in one transaction; a process that appends waits for it."""
MOST_BEHIND: Final = 2_000
"""Number of records behind the log from which on a state is stale."""
SERIES_NUMBER: Final = "SELECT id FROM window_series WHERE model = ? AND declaration = ?"
# Tiles of a few kilobytes fit into a page. In a table without rowids each would take two more
# pages.
_READ: Final = "SELECT tiles FROM window_tiles WHERE series = ? AND key = ?"
_WRITE: Final = (
    "INSERT INTO window_tiles VALUES (?, ?, ?)"
    " ON CONFLICT (series, key) DO UPDATE SET tiles = excluded.tiles"
)
_BEHIND: Final = """
SELECT w.writer, coalesce(p.seq, 0), w.seq FROM writers w
LEFT JOIN window_positions p ON p.model = ? AND p.writer = w.writer
WHERE w.seq > coalesce(p.seq, 0)
"""
_MOVE: Final = "INSERT OR REPLACE INTO window_positions VALUES (?, ?, ?)"


class _Payload(msgspec.Struct):
    request: dict[str, Any] = {}


_payload = msgspec.json.Decoder(_Payload).decode
_number = struct.Struct("<q").unpack_from
_logger = logging.getLogger(__name__)
_logger.addFilter(RateLimitFilter())


class NumberedSeries(NamedTuple):
    """A series with the number under which its tiles are stored."""

    number: int
    series: Series


def declaration(series: Series) -> str:
    """The text that identifies a series."""
    return msgspec.json.encode(series).decode()


def pack(columns: Columns) -> bytes:
    """Tiles in stored form: column after column, 64-bit whole numbers, little-endian."""
    return b"".join(columns if sys.byteorder == "little" else map(_little, columns))


def unpack(stored: bytes, width: int) -> Columns:
    """The columns of stored tiles.

    Raises:
        Unavailable: the stored tiles are damaged.
    """
    if len(stored) % (8 * width):
        raise Unavailable(
            f"stored tiles are damaged: {len(stored)} bytes do not divide into {width} columns"
        )
    flat = array("q", stored)
    if sys.byteorder == "big":
        flat.byteswap()
    length = len(flat) // width
    return [flat[n * length : (n + 1) * length] for n in range(width)]


def _little(column: array[int]) -> array[int]:
    column = column[:]
    column.byteswap()
    return column


def registered_series(db: sqlite3.Connection) -> dict[str, list[NumberedSeries]]:
    """Every series by its model, in the order of their numbers.

    Raises:
        Unavailable: a series can't be read, for example because a newer release wrote it; nothing
            can follow it.
    """
    found: dict[str, list[NumberedSeries]] = {}
    for number, model, text in db.execute("SELECT * FROM window_series ORDER BY id"):
        try:
            series = msgspec.json.decode(text, type=Series)
        except NOT_JSON as error:
            raise Unavailable(f"windows of {model}: series {number}: {error}") from error
        found.setdefault(model, []).append(NumberedSeries(number, series))
    return found


def register(db: sqlite3.Connection, model: str, series: Series) -> int:
    """The number of a series; it is created if it is not there."""
    text = declaration(series)
    db.execute(
        "INSERT OR IGNORE INTO window_series (model, declaration) VALUES (?, ?)", (model, text)
    )
    return int(db.execute(SERIES_NUMBER, (model, text)).fetchone()[0])


def behind(db: sqlite3.Connection, model: str) -> list[tuple[str, int, int]]:
    """Writers some of whose records the model's windows lack: the number reached, and that of the
    last record."""
    return db.execute(_BEHIND, (model,)).fetchall()


def log_stale(log: logging.Logger, model: str) -> None:
    """Log that the model's windows have no state, with the command that builds one."""
    log.error("windows of %s are stale: run `mlplatform history windows %s`", model, model)


def advance_to_log_end(
    db: sqlite3.Connection, model: str, new: Sequence[NumberedSeries], position: Mapping[str, int]
) -> None:
    """Bring series that hold the log up to a position to the log's end, and the model with them.

    Call it only if the model's other series already stand there.
    """
    for writer, head in db.execute("SELECT writer, seq FROM writers WHERE seq > 0").fetchall():
        after = position.get(writer, 0)
        rows = unsealed_records.select(db, ProjectedRecord._fields, writer, after=after, last=head)
        add(db, model, new, (ProjectedRecord(*row) for row in rows))
        db.execute(_MOVE, (model, writer, head))


def begin(database: Path, definition: ModelDefinition, *, has_history: bool) -> bool:
    """Whether the state of a model's windows is there. An empty one is created if the model has no
    request.

    Args:
        database: the database of the decision log, with its tables.
    """
    shared = series_of(definition.windows, definition.entities)
    with closing(sqlite.connect(database, tables=TABLES)) as db, sqlite.transaction(db):
        known = {declaration(one.series) for one in registered_series(db).get(definition.name, [])}
        if all(declaration(series) in known for series, _ in shared):
            return True
        (recorded,) = db.execute("SELECT count(*) FROM writers WHERE seq > 0").fetchone()
        if has_history or recorded:
            return False
        for series, _ in shared:
            register(db, definition.name, series)
    return True


class WindowProjection:
    """Updates the tiles of every registered series with the log."""

    tables = TABLES

    def __init__(self) -> None:
        self._known: tuple[int, int] = (0, 0)
        self._series: Mapping[str, list[NumberedSeries]] = {}
        self._swept: tuple[int, Any] = (0, 0)

    def follow(
        self, db: sqlite3.Connection, writer: str, before: int, records: Sequence[ProjectedRecord]
    ) -> None:
        known = db.execute("SELECT count(*), coalesce(max(id), 0) FROM window_series").fetchone()
        if known != self._known:
            self._series, self._known = registered_series(db), known
        written = 0
        for model, series in self._series.items():
            try:
                written += self._follow(db, model, series, writer, before, records)
            except Unavailable as error:  # only this model's windows are affected
                _logger.error("%s", error)
        if written and records:
            reached_ms = max(record.event_ms for record in records)
            self._sweep(db, reached_ms, SWEPT_A_ROW * written)

    @staticmethod
    def _follow(
        db: sqlite3.Connection,
        model: str,
        series: Sequence[NumberedSeries],
        writer: str,
        before: int,
        records: Sequence[ProjectedRecord],
    ) -> int:
        written = 0
        for follower, position, head in behind(db, model):
            if follower == writer and position == before:
                written += add(db, model, series, records)
                db.execute(_MOVE, (model, follower, head))
            else:
                written += catch_up(db, model, series, follower, position, head)
        return written

    def _sweep(self, db: sqlite3.Connection, reached_ms: int, most: int) -> None:
        """Drop entities that no window can need any more, among the next `most`."""
        ends = {
            one.number: (one.series.width, _first_kept(one.series, reached_ms))
            for of in self._series.values()
            for one in of
        }
        query = "SELECT * FROM window_tiles WHERE (series, key) > (?, ?) ORDER BY 1, 2 LIMIT ?"
        rows = db.execute(query, (*self._swept, most)).fetchall()
        self._swept = (rows[-1][0], rows[-1][1]) if len(rows) == most else (0, 0)
        gone = [
            (number, key)
            for number, key, tiles in rows
            if number not in ends or _is_over(tiles, *ends[number])
        ]
        db.executemany("DELETE FROM window_tiles WHERE series = ? AND key = ?", gone)


def _first_kept(series: Series, reached_ms: int) -> int:
    """Number of the first tile that windows can need; an entity whose newest tile is before it is
    dropped."""
    return -((KEPT_MS - reached_ms) // series.tile_ms) - 1 - series.retained


def _is_over(tiles: bytes, width: int, first_kept: int) -> bool:
    end = len(tiles) // width  # end of the tile numbers, which ascend
    return end >= 8 and bool(_number(tiles, end - 8)[0] < first_kept)


def catch_up(
    db: sqlite3.Connection,
    model: str,
    series: Sequence[NumberedSeries],
    writer: str,
    position: int,
    head: int,
    most: int = CAUGHT_UP_AT_ONCE,
) -> int:
    """Add records of a writer that does not update the windows itself. Returns the number of
    entities written.

    Raises:
        Unavailable: the records are in segments already; the windows must be built anew.
    """
    query = "SELECT max(last) FROM segments WHERE writer = ?"
    (sealed,) = db.execute(query, (writer,)).fetchone()
    if sealed is not None and sealed > position:
        problem = f"windows of {model} end at record {position} of {writer}, and its records up to"
        raise Unavailable(
            f"{problem} {sealed} are sealed; run `mlplatform history windows {model}`"
        )
    fields = ProjectedRecord._fields
    rows = unsealed_records.select(db, fields, writer, after=position, last=head, limit=most)
    records = [ProjectedRecord(*row) for row in rows]
    written = add(db, model, series, records)
    db.execute(_MOVE, (model, writer, records[-1].seq if len(records) == most else head))
    return written


def add(
    db: sqlite3.Connection,
    model: str,
    series: Sequence[NumberedSeries],
    records: Iterable[ProjectedRecord],
) -> int:
    """Add the decisions among some records to the tiles of their entities. Returns the number of
    entities, counted by series."""
    touched: dict[tuple[int, Any], Columns] = {}
    for record in records:
        if record.kind != "decision" or record.model != model or record.payload is None:
            continue
        request = request_of(record.payload)
        for number, one in series:
            key = request.get(one.key)
            if not is_key(key):  # from another declaration: not a key
                continue
            place = (number, key)
            columns = touched.get(place)
            if columns is None:
                row = db.execute(_READ, place).fetchone()
                columns = unpack(b"" if row is None else row[0], one.width)
                touched[place] = columns
            fold(columns, one, record.event_ms, request)
    written = [(*place, pack(columns)) for place, columns in touched.items() if columns[0]]
    db.executemany(_WRITE, written)
    return len(written)


def request_of(payload: str) -> dict[str, Any]:
    """The request in a record; empty for a payload that no request can have made."""
    try:
        return _payload(payload).request
    except NOT_JSON:  # the payload holds no usable request
        return {}


def is_key(value: object) -> bool:
    """Whether the value can be an entity's key."""
    return isinstance(value, str) or (isinstance(value, int) and abs(value) < 2**63)
