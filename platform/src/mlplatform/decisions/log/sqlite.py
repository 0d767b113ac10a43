"""The decision log in one folder: SQLite takes the appends, Parquet segments keep the rest."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from mlplatform.decisions.log import reader, seal, verified_head, verify
from mlplatform.decisions.records import kept_keys, tables
from mlplatform.decisions.records.port import (
    AppendReceipt,
    DuplicateKey,
    Entry,
    ManifestHead,
    NamedHead,
    Outcome,
    RecordQuery,
    StoredAnswer,
    VerifyReport,
    Watermark,
)
from mlplatform.decisions.records.prepared_record import Key, StorableRecord, prepared
from mlplatform.decisions.records.projection import Projection, committed
from mlplatform.decisions.records.record import GENESIS, WRITER_NAME, Record, link, record_digest
from mlplatform.decisions.records.sqlite_errors import Translation
from mlplatform.decisions.records.unsealed_records import UnsealedWriter
from mlplatform.decisions.spill import files
from mlplatform.decisions.spill.backlog import (
    SpillBacklog,
    damaged_spills,
    lowered,
    records_of,
    spill_backlogs,
)
from mlplatform.decisions.spill.recovery import Mark, resolved
from mlplatform.runtime.clock import SystemClock
from mlplatform.runtime.errors import InputInvalid, StaleFence, Unavailable
from mlplatform.runtime.storage import sqlite, sqlite_wal
from mlplatform.runtime.storage.files import locked
from mlplatform.runtime.storage.wal_readers import WalReaders
from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter

if TYPE_CHECKING:  # a gateway starts without pyarrow
    import pyarrow as pa

LIVE_WITHIN_MS: Final = 10_000
_logger = logging.getLogger(__name__)
_logger.addFilter(RateLimitFilter())
_MOVING: Final = "recent-keys.lock"
_STEPS: Final = 32
"""Steps of a move of keys between two checkpoints: a quarter of a second."""
_LOOKUP_WAIT_MS = 5
_HELD_UP_S: Final = 0.001
"""Longest wait of a read on the event loop in seconds. In WAL mode readers wait only for a
recovery."""
_SYSTEM = SystemClock()
_NONE: Final[Mapping[int, DuplicateKey]] = {}
_EVENT_MS = Record.__struct_fields__.index("event_ms")
_ADVANCE = """
UPDATE writers SET seq = ?, chain = ?, heartbeat_at_ms = ?, closed = 0,
    event_ms = max(coalesce(event_ms, ?), coalesce(?, event_ms))
WHERE writer = ? AND session = ? AND seq = ? AND chain = ?
"""
_CLAIM = """
INSERT INTO writers VALUES (?, 0, ?, NULL, ?, 0, 1)
ON CONFLICT (writer) DO UPDATE SET session = session + 1
RETURNING session, seq, chain
"""


class _Head(msgspec.Struct, frozen=True):
    session: int
    seq: int
    chain: bytes


class _NewKeys:
    """Records that bring keys, without those whose key a later record of the batch ends."""

    def __init__(self) -> None:
        self.ended: list[Key] = []
        self._items: list[StorableRecord | None] = []
        self._places: dict[Key, int] = {}

    def add(self, item: StorableRecord) -> None:
        if ended := item.ended:
            for key in ended:
                if (place := self._places.pop(key, None)) is not None:
                    self._items[place] = None
            self.ended += ended
            assert item.key is not None
            self._places[item.key] = len(self._items)
        self._items.append(item)

    @property
    def items(self) -> list[StorableRecord]:
        return [item for item in self._items if item is not None]


class SqliteDecisionLog:
    """The decision log in a folder. Any number of processes may read; a writer's name belongs to
    the last process that claimed it.

    Args:
        folder: folder that holds decisions.db and segments/; it is created at first use.
        wall_ms: returns the wall time for heartbeats and for the life of idempotency keys.
        durable: fsync each append (`durability: disk`). Without it, appends survive killed
            processes but not power loss.
        segment_rows: least and largest number of records in a segment.
        lock_wait_ms: milliseconds for which an append waits for another process's transaction.
        projection: state that is updated with the records that this process writes, in the same
            transactions; None means no such state. It may be set later.
    """

    def __init__(
        self,
        folder: Path,
        wall_ms: Callable[[], int] = _SYSTEM.wall_ms,
        *,
        durable: bool = False,
        segment_rows: tuple[int, int] = (1_000, 50_000),
        lock_wait_ms: int = sqlite.BUSY_TIMEOUT_MS,
        projection: Projection | None = None,
    ) -> None:
        self.projection = projection
        self._folder = folder
        self._path = folder / tables.DATABASE
        self._wall_ms = wall_ms
        self._segment_rows = segment_rows
        self._translation = Translation(self._path)
        with self._translation:
            self._db = sqlite.connect(
                self._path,
                schema=tables.SCHEMA,
                tables="" if projection is None else projection.tables,
                durable=durable,
                threads=True,
                shrinks=True,
            )
            self._db.execute(f"PRAGMA wal_autocheckpoint={sqlite_wal.AUTOCHECKPOINT_FRAMES}")
            self._db.execute(f"PRAGMA journal_size_limit={sqlite_wal.LOG_BYTES}")
            self._db.execute(f"PRAGMA busy_timeout={lock_wait_ms}")
            self._lookups = sqlite.connect(self._path, threads=True)
            self._lookups.execute(f"PRAGMA busy_timeout={_LOOKUP_WAIT_MS}")
            self._kept = kept_keys.KeptKeys(self._lookups)
            self._keys = kept_keys.KeyWriter(self._db)
            self._records = UnsealedWriter(self._db)
        self._readers = WalReaders(self._path)
        self._were_held_up = False
        self._heads: dict[str, _Head] = {}
        self._lock = threading.Lock()
        self._lookups_lock = threading.Lock()

    def append(self, writer: str, entries: Sequence[Entry]) -> list[Outcome]:
        """Make all entries durable in one transaction; outcomes in the order of the entries."""
        return self.append_prepared(writer, [prepared(entry) for entry in entries])

    def append_prepared(
        self,
        writer: str,
        items: Sequence[StorableRecord],
        known: Mapping[int, DuplicateKey] = _NONE,
    ) -> list[Outcome]:
        """Append entries that are in their stored form.

        Args:
            known: position in `items` → the earlier answer, for items whose key was answered
                elsewhere; these are not written.
        """
        with self._lock, _refusing_what_cannot_be_stored():
            if writer not in self._heads:  # all recent keys are read once: not under the write lock
                self._keys.kept.recent.follow()
            try:
                with self._transaction():
                    # if claims end within these items, stored rows do not show every repeat
                    ends = any(item.idempotency and item.idempotency.ends for item in items)
                    repeats = {**self._repeats(items), **known} if ends else known
                    head, outcomes = self._write(writer, items, repeats)
            except kept_keys.KeyTaken:
                with self._transaction():
                    repeats = {**self._repeats(items), **known}
                    head, outcomes = self._write(writer, items, repeats)
            self._heads[writer] = head
        return outcomes

    def catch_up(self, writer: str, mark: Mark, spilled: Sequence[StorableRecord]) -> int:
        """Append a part of a spill, once however often it is tried. Returns the number of key
        conflicts.

        Raises:
            StaleFence: another process moves this spill, or writes under this writer's name.
        """
        with self._lock, _refusing_what_cannot_be_stored(), self._transaction():
            caught_up = resolved(spilled, self._find_answer, now_ms=self._wall_ms())
            if not tables.move_spill_mark(self._db, mark.spill, start=mark.start, end=mark.end):
                raise StaleFence(f"another process moves spill {mark.spill}; {writer} stopped")
            head, _ = self._write(writer, caught_up.items, _NONE)
        self._heads[writer] = head
        return caught_up.conflicts

    def spill_mark(self, spill: str) -> int | None:
        """The byte up to which a spill is in the log; None if nothing of it is."""
        with self._lookups_lock, self._translation:
            return tables.spill_mark(self._lookups, spill)

    def forget_spill(self, spill: str) -> None:
        """Drop the mark of a spill that is gone."""
        with self._lock, self._transaction():
            tables.forget_spill(self._db, spill)

    def find(self, client: str, model: str, key: str) -> StoredAnswer | None:
        """The answer given under a key, while it is kept: as long as claimed, or a little
        longer."""
        return self.find_all([(client, model, key)])[0]

    def find_all(self, keys: Sequence[Key]) -> list[StoredAnswer | None]:
        """The answers for several keys, as `find` gives each, by one read of the log."""
        self._check_readers()
        with self._lookups_lock, self._translation:
            return self._kept.find_all(keys)

    def _check_readers(self) -> None:
        """Raise where SQLite would wait for up to ten seconds, and block an event loop."""
        was_held_up, self._were_held_up = self._were_held_up, self._readers.are_held_up()
        if self._were_held_up and not was_held_up:
            # A writer that starts the log anew holds this lock for microseconds. Wait only once: a
            # wait at every call would take too much time of the event loop.
            time.sleep(_HELD_UP_S)
            self._were_held_up = self._readers.are_held_up()
        if self._were_held_up:
            raise Unavailable(f"decision log {self._path}: another process blocks its readers")

    def read(self, query: RecordQuery) -> pa.Table:
        """The records of the query, ordered by writer and number, with the query's columns."""
        with self._translation, closing(self._connection()) as db:
            return reader.read(db, self._folder, query)

    def seal(self) -> ManifestHead:
        """Move the records that have piled up into immutable segments. Returns the head to anchor
        elsewhere."""
        with self._translation, seal.lock(self._folder), closing(self._connection()) as db:
            limits = seal.SealLimits(*self._segment_rows)
            for _ in seal.steps(db, self._folder, limits, now_ms=self._wall_ms()):
                pass
            return tables.head(db)

    def verify(
        self, anchor: ManifestHead | None = None, *, heads: Sequence[NamedHead] = ()
    ) -> VerifyReport:
        """Check every digest, every chain, every segment, the anchor, and earlier heads."""
        return self.check(anchor, heads=heads)

    def check(
        self,
        anchor: ManifestHead | None,
        *,
        heads: Sequence[NamedHead] = (),
        new_only: bool = False,
        cores: int = 1,
    ) -> VerifyReport:
        """Check the log with these options; what was intact is remembered.

        Args:
            heads: as in `verify`.
            new_only: leave out the segments that an earlier check found intact.
            cores: number of processes that check segments.
        """
        spilled = self.backlogs()
        since = verified_head.last(self._folder) if new_only else None
        with self._translation, closing(self._connection()) as db:
            found = verify.verify(
                db, self._folder, anchor, heads, since=since or verify.NOTHING, cores=cores
            )
        if found.report.ok:
            verified_head.remember(self._folder, found.head)
        return replace(
            found.report,
            findings=found.report.findings + tuple(damaged_spills(self.spills)),
            spilled=sum(one.records for one in spilled),
        )

    def watermarks(self) -> list[Watermark]:
        """One watermark per writer, sorted by name."""
        spilled = self.backlogs()  # first: records moved later are read from the log
        return lowered(self.heads(), spilled)

    def heads(self) -> list[Watermark]:
        """The watermarks as if nothing of this log were spilled, which takes long to count."""
        with self._lookups_lock, self._translation:
            rows = tables.writers(self._lookups)
            elsewhere = tables.replicated_writers(self._lookups)
        oldest = self._wall_ms() - LIVE_WITHIN_MS
        return [tables.watermark(w, elsewhere.get(w.writer), oldest) for w in rows]

    @property
    def spills(self) -> Path:
        """The folder of spills, which hold the records that this log did not take."""
        return self._folder / files.FOLDER

    def backlogs(self) -> list[SpillBacklog]:
        """The spilled records of each writer that are not in the log yet."""
        if not self.spills.is_dir():
            return []
        with self._translation, closing(self._connection()) as db:
            return spill_backlogs(db, self.spills)

    def spilled_records(self, decision_id: str) -> list[tuple[str, dict[str, Any]]]:
        """Writer and fields of every record of a decision that is spilled."""
        with self._translation, closing(self._connection()) as db:
            return list(records_of(db, self.spills, decision_id))

    def latest_event_ms(self) -> int | None:
        """The largest event time that any writer has reached."""
        with self._lookups_lock, self._translation:
            row = self._lookups.execute("SELECT max(event_ms) FROM writers").fetchone()
        latest: int | None = row[0]
        return latest

    def heartbeat(self, writer: str, event_ms: int | None = None) -> None:
        """Record that the writer lives and has nothing left to append from before `event_ms`.

        Raises:
            StaleFence: another process has claimed the writer's name.
        """
        with self._lock:
            with self._transaction():
                head = self._head(writer)
                self._advance(writer, head, head, event_ms)
            self._heads[writer] = head

    def close_writer(self, writer: str) -> None:
        """Record that the writer appends nothing more, so that nobody waits for its watermark."""
        with self._lock:
            head = self._heads.pop(writer, None)
            if head is not None:
                with self._transaction():
                    self._db.execute(
                        "UPDATE writers SET closed = 1 WHERE writer = ? AND session = ?",
                        (writer, head.session),
                    )

    def checkpoint(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Copy the write-ahead log into the database, and move the recent keys to their tables if
        there are many, until it `is_over`. Appends wait for some milliseconds at most."""
        with self._translation, closing(self._connection()) as db:
            sqlite_wal.copy(db, self._path, self._lock)
            move = kept_keys.move_recent(db)
            if not move.has_more:
                return
            with locked(self._folder / _MOVING) as is_alone:
                while (is_alone or move.is_overdue) and move.has_more and not is_over():
                    if move.steps % _STEPS == 0:
                        sqlite_wal.copy(db, self._path, self._lock)
                    with sqlite.throttled(move.rests), self._lock:
                        move.step()

    def close(self) -> None:
        """Close the connections; open writers count as live until their heartbeat is old."""
        with self._lock, self._lookups_lock:
            self._db.close()
            self._lookups.close()

    def _write(
        self,
        writer: str,
        items: Sequence[StorableRecord],
        repeats: Mapping[int, DuplicateKey],
    ) -> tuple[_Head, list[Outcome]]:
        before = self._head(writer)
        seq, chain = before.seq, before.chain
        now_ms = self._wall_ms()
        outcomes: list[Outcome] = []
        rows: list[tuple[object, ...]] = []
        keys = _NewKeys()
        for index, item in enumerate(items):
            if index in repeats:
                outcomes.append(repeats[index])
                continue
            seq += 1
            form = item.form
            digest = record_digest(writer, seq, form.scalars, form.payload_digest)
            chain = link(chain, digest)
            outcomes.append(AppendReceipt(seq))
            digests = (form.payload_digest, digest, chain)
            rows.append((writer, seq, *form.scalars, *digests, form.payload))
            if item.idempotency is not None:
                keys.add(item)
        after = _Head(before.session, seq, chain)
        latest_ms = max((item.form.scalars[_EVENT_MS] for item in items), default=None)
        self._advance(writer, before, after, latest_ms)
        if keys.ended:
            self._keys.end(keys.ended)
        self._keys.write(keys.items, now_ms)
        self._records.insert(rows)
        if self.projection is not None:
            self._project(self.projection, writer, before.seq, rows)
        return after, outcomes

    def _project(
        self, projection: Projection, writer: str, before: int, rows: Sequence[Sequence[Any]]
    ) -> None:
        """Update a projection with written records. A failure does not affect the records; the
        projection catches up later."""
        self._db.execute("SAVEPOINT projection")
        try:
            projection.follow(self._db, writer, before, [committed(row) for row in rows])
        except Exception:  # a projection's failure refuses no record
            if not self._db.in_transaction:  # e.g. a full disk ended the transaction
                raise
            self._db.execute("ROLLBACK TO projection")
            _logger.exception(
                "records of %s are written, but the projection beside them failed", writer
            )
        self._db.execute("RELEASE projection")

    def _find_answer(self, client: str, model: str, key: str) -> StoredAnswer | None:
        return self._keys.kept.find((client, model, key))

    def _repeats(self, items: Sequence[StorableRecord]) -> dict[int, DuplicateKey]:
        first: dict[Key, StoredAnswer] = {}
        ended: set[Key] = set()
        repeats: dict[int, DuplicateKey] = {}
        for index, item in enumerate(items):
            idempotency, key = item.idempotency, item.key
            if idempotency is None or key is None:
                continue
            known = first.get(key)
            if known is None and key not in ended:
                known = self._keys.kept.find(key)
            if known is None:
                first[key] = StoredAnswer(
                    idempotency.answer, idempotency.body_digest, item.decision_id
                )
                for gone in item.ended:
                    first.pop(gone, None)
                    ended.add(gone)
            else:
                repeats[index] = DuplicateKey(known.answer, known.is_of(idempotency.body_digest))
        return repeats

    def _head(self, writer: str) -> _Head:
        known = self._heads.get(writer)
        if known is not None:
            return known
        if not WRITER_NAME.fullmatch(writer):
            raise InputInvalid(f"writer {writer!r}", None, f"wanted: {WRITER_NAME.pattern}")
        return _Head(*self._db.execute(_CLAIM, (writer, GENESIS, self._wall_ms())).fetchone())

    def _advance(self, writer: str, before: _Head, after: _Head, event_ms: int | None) -> None:
        now_ms = self._wall_ms()
        head = (writer, before.session, before.seq, before.chain)
        values = (after.seq, after.chain, now_ms, event_ms, event_ms, *head)
        if self._db.execute(_ADVANCE, values).rowcount != 1:
            raise StaleFence(
                f"another process writes to the decision log as {writer!r};"
                f" this one stopped at record {before.seq}"
            )

    def _connection(self) -> sqlite3.Connection:
        return sqlite.connect(self._path)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._translation:
            try:
                with sqlite.transaction(self._db):
                    yield
            except kept_keys.KeyTaken:  # raised before any key was written
                raise
            except BaseException:
                self._keys.forget()
                self._records.forget()
                raise


@contextmanager
def _refusing_what_cannot_be_stored() -> Iterator[None]:
    try:
        yield
    except (OverflowError, UnicodeEncodeError) as error:
        raise InputInvalid("a record", None, str(error)) from error
