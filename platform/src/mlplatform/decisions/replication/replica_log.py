"""Records from logs elsewhere, appended to this log under their own writers and numbers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlplatform.decisions.log import erasure, sealed_files, sealed_form, segments
from mlplatform.decisions.log.sqlite import LIVE_WITHIN_MS
from mlplatform.decisions.records import tables, unsealed_records
from mlplatform.decisions.records.record import GENESIS, STORED
from mlplatform.decisions.records.sqlite_errors import Translation
from mlplatform.decisions.records.unsealed_records import UnsealedWriter
from mlplatform.decisions.replication.continuation import (
    AppendPlan,
    Divergence,
    Finding,
    Head,
    RecordIdentity,
    append_plan,
)
from mlplatform.decisions.replication.replicated_records import Item, ReplicatedRecord
from mlplatform.runtime.clock import SystemClock
from mlplatform.runtime.errors import Busy, NotFound, Refused
from mlplatform.runtime.storage import sqlite

_SYSTEM = SystemClock()
_SEQ: Final = STORED.index("seq")
_DIGEST: Final = STORED.index("digest")
_CHAIN: Final = STORED.index("chain")
_ADOPT: Final = """
INSERT INTO writers VALUES (?, 0, ?, NULL, 0, 0, 1)
ON CONFLICT (writer) DO UPDATE SET session = session + 1, closed = 0
RETURNING session
"""
_KEEP: Final = """
INSERT INTO gathered VALUES (?, ?, 0)
ON CONFLICT (writer) DO UPDATE SET session = excluded.session, spilled = 0
"""


@dataclass(frozen=True, slots=True)
class ReplicaPosition:
    """A replicated writer's progress in this log.

    Args:
        taken: number of records that were appended. `repeated` counts those that were here already.
        finding: why the other items were not appended; None if there were no others.
    """

    writer: str
    seq: int
    chain: bytes
    taken: int
    repeated: int
    finding: Finding | None


@dataclass(frozen=True, slots=True)
class _CheckedBatch:
    """The check of a writer's items, and the state of this log at that time."""

    writer: str
    row: tables.Writer | None
    is_kept: bool
    judged: AppendPlan


class ReplicaLog:
    """The log of a home folder, for the process that replicates logs from elsewhere into it.

    Replicating records again changes nothing, so a process that was killed may start again at any
    earlier place.

    Args:
        folder: the log's folder; it is created at first use.
        wall_ms: returns the wall time, which tells whether a writer of this log itself is still
            alive.
        durable: fsync each transaction (`durability: disk`).
    """

    def __init__(
        self,
        folder: Path,
        wall_ms: Callable[[], int] = _SYSTEM.wall_ms,
        *,
        durable: bool = False,
    ) -> None:
        self._folder = folder
        self._wall_ms = wall_ms
        self._translation = Translation(folder / tables.DATABASE)
        self._lock = threading.Lock()
        with self._translation:
            self._db = sqlite.connect(
                folder / tables.DATABASE,
                schema=tables.SCHEMA,
                durable=durable,
                threads=True,
                shrinks=True,
            )
        self._records = UnsealedWriter(self._db, is_foreign=True)

    def replicate(self, items: Sequence[Item]) -> list[ReplicaPosition]:
        """Append the records that continue each writer, in one transaction. Returns one position
        per writer.

        Args:
            items: items of any writers; those of one writer are in the order in which they were
                published.

        Raises:
            Unavailable: the log did not answer; nothing was appended.
            Corrupt: the log holds damaged data; nothing was appended.
            Busy: another process wrote under one of these names at the same time; nothing was
                appended.
        """
        by_writer: dict[str, list[Item]] = {}
        for item in items:
            by_writer.setdefault(item.writer, []).append(item)
        # Checked before the lock is taken, so that a gateway that also writes here waits only for
        # the inserts.
        with self._lock, self._translation, self._snapshot():
            found = [self._looked_at(writer, own) for writer, own in sorted(by_writer.items())]
        with self._transaction():
            for one in found:
                self._take(one)
        return [_position(one) for one in found]

    def give_up(self, writer: str) -> None:
        """Stop waiting for a replicated writer whose log is lost, until it reports again.

        Raises:
            NotFound: no writer with this name comes from another log.
            Refused: the writer has ended by itself, and nobody waits for it.
        """
        with self._transaction():
            if writer not in tables.replicated_writers(self._db):
                raise NotFound(f"no writer {writer!r} comes from a log elsewhere")
            done = self._db.execute(
                "UPDATE writers SET closed = 1 WHERE writer = ? AND closed = 0", (writer,)
            )
            if done.rowcount == 0:
                raise Refused(f"writer {writer!r} has closed; no verdict waits for it")

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _looked_at(self, writer: str, items: Sequence[Item]) -> _CheckedBatch:
        row = self._row(writer)
        head = Head(0, GENESIS) if row is None else Head(row.seq, row.chain)
        is_kept = writer in tables.replicated_writers(self._db)
        if row is not None and not is_kept and self._is_live(row):
            problem = f"writer {writer} writes to this log itself: two gateways have one name"
            return _CheckedBatch(
                writer, row, is_kept, AppendPlan((), head, None, Divergence(problem), 0)
            )
        known, erased = self._known_records(writer, head, items), self._erased(writer, items)
        return _CheckedBatch(writer, row, is_kept, append_plan(writer, head, items, known, erased))

    def _row(self, writer: str) -> tables.Writer | None:
        return next((w for w in tables.writers(self._db) if w.writer == writer), None)

    def _is_live(self, row: tables.Writer) -> bool:
        return not row.closed and row.heartbeat_at_ms >= self._wall_ms() - LIVE_WITHIN_MS

    def _take(self, batch: _CheckedBatch) -> None:
        found, writer = batch.judged, batch.writer
        if not found.rows and found.offset is None:
            return
        now, then = self._row(writer), batch.row
        if now is not None and (then is None or now[:3] + now[6:] != then[:3] + then[6:]):
            raise Busy(f"another process wrote records of {writer} while they were checked")
        if not batch.is_kept:
            self._adopt(writer)
        self._records.insert(found.rows)
        # a writer with new records is not closed
        self._db.execute(
            "UPDATE writers SET seq = ?, chain = ?, closed = closed AND ? WHERE writer = ?",
            (*found.head, not found.rows, writer),
        )
        offset = found.offset
        if offset is not None:
            self._db.execute(
                "UPDATE writers SET event_ms = ?, heartbeat_at_ms = ?, closed = ? WHERE writer = ?",
                (offset.event_ms, offset.heartbeat_at_ms, offset.closed, writer),
            )
            self._db.execute(
                "UPDATE gathered SET spilled = ? WHERE writer = ?", (offset.spilled, writer)
            )

    def _adopt(self, writer: str) -> None:
        """Mark the writer as replicated, which fences a gateway of that name that would write
        here."""
        (session,) = self._db.execute(_ADOPT, (writer, GENESIS)).fetchone()
        self._db.execute(_KEEP, (writer, session))

    def _erased(self, writer: str, items: Sequence[Item]) -> Set[int]:
        """Numbers of the writer's items without a payload whose erasure is on record here."""
        came = [i for i in items if isinstance(i, ReplicatedRecord) and i.payload is None]
        if not came:
            return frozenset()
        found = erasure.removal_records(self._folder)
        return {i.seq for i in came if found.covers(writer, i.without_payload())}

    def _known_records(
        self, writer: str, head: Head, items: Sequence[Item]
    ) -> dict[int, RecordIdentity]:
        numbers = [i.seq for i in items if isinstance(i, ReplicatedRecord) and i.seq <= head.seq]
        if not numbers:
            return {}
        first, last = min(numbers), max(numbers)
        rows = unsealed_records.select(self._db, STORED, writer, after=first - 1, last=last)
        known = _identities(map(sealed_form.whole, rows))
        within = "writer = ? AND first <= ? AND last >= ?"
        for file in sealed_files.present(self._db, within, writer, last, first):
            known |= _places(file.path(self._folder), first, last)
        return known

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        with sealed_files.hold_files(self._folder):
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("ROLLBACK")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, self._translation:
            try:
                with sqlite.transaction(self._db):
                    yield
            except BaseException:
                self._records.forget()
                raise


def _position(batch: _CheckedBatch) -> ReplicaPosition:
    found = batch.judged
    return ReplicaPosition(
        batch.writer, *found.head, len(found.rows), found.repeated, found.finding
    )


def _identities(rows: Iterable[Sequence[Any]]) -> dict[int, RecordIdentity]:
    return {row[_SEQ]: RecordIdentity(row[_DIGEST], row[_CHAIN]) for row in rows}


def _places(path: Path, first: int, last: int) -> dict[int, RecordIdentity]:
    found: dict[int, RecordIdentity] = {}
    for rows in segments.stored(path, first - 1):
        found |= _identities(row for row in rows if row[_SEQ] <= last)
        if rows[-1][_SEQ] >= last:
            break
    return found
