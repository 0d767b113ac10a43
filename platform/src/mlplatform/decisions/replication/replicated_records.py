"""A log in the form in which it is replicated: its stored records, and each writer's progress."""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import reduce
from operator import itemgetter, or_
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from mlplatform.decisions.log import sealed_files, sealed_form, segments
from mlplatform.decisions.log.sealed_files import SealedFile
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records import tables
from mlplatform.decisions.records.port import Watermark
from mlplatform.decisions.records.record import COLUMNS, GENESIS, REQUIRED, SCALARS, WRITER_NAME
from mlplatform.decisions.records.retention import AbsentPayload, Int64
from mlplatform.decisions.records.sqlite_errors import Translation
from mlplatform.decisions.spill.backlog import lowered
from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.storage import sqlite

_SEQ = Annotated[int, Meta(ge=1, le=2**63 - 1)]
_DIGEST = Annotated[bytes, Meta(min_length=32, max_length=32)]
_KINDS: Final[dict[str, Any]] = {
    "string": str,
    "int64": Int64,
    "int8": Annotated[int, Meta(ge=0, le=1)],
    "float64": float,
    "bool": Annotated[int, Meta(ge=0, le=1)],
}
_DEGRADED: Final = SCALARS.index("degraded") - 2
_KEPT_WRITERS: Final = 4
_Row = tuple[Any, ...]


class ReplicatedRecord(msgspec.Struct, frozen=True, array_like=True, tag="record"):
    """A stored record with the number that its writer gave it.

    Args:
        scalars: values in the order of SCALARS[2:]; booleans are 0 or 1.
        payload: JSON text as it was hashed; None if it was erased.
    """

    writer: str
    seq: _SEQ
    scalars: list[Any]
    payload_digest: _DIGEST
    digest: _DIGEST
    chain: _DIGEST
    payload: str | None

    def without_payload(self) -> AbsentPayload:
        """The fields that decide whether its payload may be missing."""
        by_name = dict(zip(SCALARS[2:], self.scalars, strict=True))
        return AbsentPayload(self.seq, *(by_name[name] for name in AbsentPayload._fields[1:]))

    def row(self) -> tuple[Any, ...]:
        """The columns of the table of records."""
        digests = (self.payload_digest, self.digest, self.chain)
        return (self.writer, self.seq, *self.scalars, *digests, self.payload)


class ReplicaOffset(msgspec.Struct, frozen=True, array_like=True, tag="stand"):
    """A writer's progress in its own log: its last record, and its watermark.

    Args:
        event_ms: watermark of the writer: no later record, spilled ones included, has an earlier
            event time. None if it is not known.
        closed: the writer has closed; a later message opens it again.
    """

    writer: str
    seq: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    chain: _DIGEST
    event_ms: Int64 | None
    heartbeat_at_ms: Int64
    closed: bool
    spilled: Annotated[int, Meta(ge=0, le=2**63 - 1)]


Item = ReplicatedRecord | ReplicaOffset

_encode = msgspec.json.Encoder().encode
_decoder: Final[msgspec.json.Decoder[Item]] = msgspec.json.Decoder(Item)


def encoded(item: Item) -> bytes:
    """The item in the encoding of a topic's message."""
    return _encode(item)


def decoded(data: bytes, source: str) -> Item:
    """The item in a message that `encoded` made.

    Args:
        source: place where the message was found, for the error.

    Raises:
        InputInvalid: the message is not a record or an offset, or it cannot be stored.
    """
    try:
        item = _decoder.decode(data)
        if isinstance(item, ReplicatedRecord):
            msgspec.convert(item.scalars, _shape())
    except NOT_JSON as error:
        raise InputInvalid(source, None, str(error)) from error
    if not WRITER_NAME.fullmatch(item.writer):
        problem = f"writer {item.writer[:80]!r}; wanted: {WRITER_NAME.pattern}"
        raise InputInvalid(source, None, problem)
    return item


def _shape() -> Any:
    return tuple[tuple(_kind(name) for name in SCALARS[2:])]  # type: ignore[misc]


def _kind(name: str) -> Any:
    kind = _KINDS[COLUMNS[name]]
    return kind if name in REQUIRED else reduce(or_, (kind, None))


@contextmanager
def opened(folder: Path) -> Iterator[ReplicationReader]:
    """A reader of the log in this folder, open within the block.

    Raises:
        Unavailable: there is no log, or it cannot be opened.
    """
    with closing(SqliteDecisionLog(folder)) as log:
        yield ReplicationReader(folder, log)


class ReplicationReader:
    """Reads a log that other processes write, to replicate it.

    Args:
        folder: the log's folder.
        log: the log in that folder.
    """

    def __init__(self, folder: Path, log: SqliteDecisionLog) -> None:
        self._folder = folder
        self._path = folder / tables.DATABASE
        self._log = log
        self._translation = Translation(self._path)
        self._decoded: dict[str, tuple[int, list[_Row]]] = {}

    def offsets(self) -> list[ReplicaOffset]:
        """One offset per writer, sorted by name."""
        spilled = self._log.backlogs()  # first: records moved later are read from the log
        with self._snapshot() as db:
            rows = {w.writer: w for w in tables.writers(db)}
        marks = [
            Watermark(w.writer, w.seq, w.event_ms, w.heartbeat_at_ms, live=not w.closed)
            for w in rows.values()
        ]
        return [
            ReplicaOffset(
                mark.writer,
                mark.seq,
                rows[mark.writer].chain if mark.writer in rows else GENESIS,
                mark.event_ms,
                mark.heartbeat_at_ms,
                not mark.live,
                mark.spilled,
            )
            for mark in lowered(marks, spilled)
        ]

    def records(self, writer: str, *, after: int, limit: int) -> list[ReplicatedRecord]:
        """The first records of a writer with larger numbers: at most `limit`, and at least one if
        there are any."""
        with sealed_files.hold_files(self._folder), self._snapshot() as db:
            files = sealed_files.present(db, "writer = ? AND last > ?", writer, after, limit=1)
            if files:
                rows = self._from_file(files[0], after)
                return [_record(row) for row in rows[:limit]]
            self._decoded.pop(writer, None)
            rows = tables.unsealed_rows(db, writer, after=after, limit=limit)
            return [_record(sealed_form.whole(row)) for row in rows]

    def _from_file(self, file: SealedFile, after: int) -> list[_Row]:
        """Rows of a file after a number. The rows decoded last are reused if they hold the next
        one.

        A process that follows a log asks for some records at a time: each row is decoded once.
        """
        number, rows = self._decoded.pop(file.writer, (0, []))
        if number != file.file or not rows or not rows[0][1] - 1 <= after < rows[-1][1]:
            rows = next(segments.stored(file.path(self._folder), after), [])
        while len(self._decoded) >= _KEPT_WRITERS:
            del self._decoded[next(iter(self._decoded))]
        self._decoded[file.writer] = file.file, rows
        return rows[bisect_right(rows, after, key=itemgetter(1)) :]

    @contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        with self._translation, closing(sqlite.connect(self._path)) as db:
            db.execute("BEGIN")
            yield db
            db.execute("COMMIT")


def _record(row: _Row) -> ReplicatedRecord:
    writer, seq, *scalars, payload_digest, digest, chain, payload = row
    scalars[_DEGRADED] = int(scalars[_DEGRADED])
    return ReplicatedRecord(writer, seq, scalars, payload_digest, digest, chain, payload)
