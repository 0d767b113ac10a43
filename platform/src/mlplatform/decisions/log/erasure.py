"""Removal of payloads from the log once their erasure is on record, in steps that may be repeated.

The record of an erasure comes first (`erasure_acts`). From then on this process or the next seal
carries it out, even if a process dies at any point. Progress is kept in the database; if it is
lost, everything is done again, which changes nothing.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Iterator, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlplatform.decisions.log import (
    catalogue,
    compaction,
    reader,
    sealed_files,
    sealed_form,
    segments,
)
from mlplatform.decisions.log.sealed_files import SealedFile
from mlplatform.decisions.records import kept_keys, tables, unsealed_records
from mlplatform.decisions.records.erasures import WRITERS, Erasure, erasure_of, numbers_of
from mlplatform.decisions.records.port import RecordQuery
from mlplatform.decisions.records.retention import (
    KEPT_KINDS,
    AbsentPayload,
    ExpiredRange,
    RetentionRule,
    expired_ranges,
    rule_of,
)
from mlplatform.runtime.errors import Corrupt
from mlplatform.runtime.storage import sqlite
from mlplatform.runtime.storage.files import sync

if TYPE_CHECKING:  # a gateway starts without pyarrow
    import pyarrow as pa

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS erasures_done (writer TEXT PRIMARY KEY, seq INTEGER NOT NULL)
STRICT, WITHOUT ROWID
"""
_FILES_DONE: Final = """
CREATE TABLE IF NOT EXISTS erased_files (file INTEGER PRIMARY KEY, work TEXT NOT NULL) STRICT
"""
"""Table of files from which everything in `work` has been removed. A new act changes the value of
`work`."""
_DONE: Final = "INSERT OR REPLACE INTO erasures_done VALUES (?, ?)"
CHECK: Final = "run `mlplatform log verify`"
_NO_LIMIT: Final = 2**63
_COLUMNS: Final = ("writer", "seq", "kind", "decision_id", "model", "recorded_ms", "payload")
_BITE_ROWS: Final = 200
_CHECKPOINT_WAIT_MS: Final = 2_000
"""Longest wait in milliseconds for readers to end; writers wait as long."""
_SHORT_WAIT_MS: Final = 20
"""Longest such wait for retention, which runs every day and can also finish at the next seal."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PendingErasures:
    """The erasures on record that may not be carried out yet.

    Args:
        numbers: writer → numbers of the records whose payload is erased, ascending.
        decisions: ids of the decisions whose stored answers are erased.
        ranges: writer → ranges of records in which a model's payloads are removed because of their
            age.
        reached: writer of erasures → number of its last record that is done when all of these are
            done.
    """

    numbers: Mapping[str, Sequence[int]]
    decisions: Set[str]
    ranges: Mapping[str, Sequence[ExpiredRange]]
    reached: Mapping[str, int]

    @property
    def work(self) -> str:
        """The digest by which this set of erasures is known."""
        return json.dumps(sorted(self.reached.items()))

    def within(self, file: SealedFile) -> tuple[Sequence[int], Sequence[ExpiredRange]]:
        """The part of these erasures that is about a file: numbers of records, and ranges."""
        numbers = self.numbers.get(file.writer, ())
        ranges = self.ranges.get(file.writer, ())
        return (
            numbers[bisect_left(numbers, file.first) : bisect_right(numbers, file.last)],
            [one for one in ranges if one.first <= file.last and file.first <= one.last],
        )


@dataclass(frozen=True, slots=True)
class RemovalRecords:
    """Every payload that may be missing, by what is on record.

    Args:
        numbers: writer → numbers of the records whose erasure is on record.
        ranges: writer → ranges of records whose retention has ended.
    """

    numbers: Mapping[str, Set[int]]
    ranges: Mapping[str, Sequence[ExpiredRange]]

    def covers(self, writer: str, one: AbsentPayload) -> bool:
        """Whether a writer's record may be without its payload."""
        if one.seq in self.numbers.get(writer, ()):
            return True
        return any(expired.covers(one) for expired in self.ranges.get(writer, ()))


def pending_erasures(db: sqlite3.Connection, folder: Path) -> PendingErasures | None:
    """The erasures that are to be carried out; None if there are none. Cheap if there is nothing
    new.

    An erasure of records that come from a log elsewhere, and have not come yet, waits for them.

    Raises:
        Corrupt: the payload of an erasure record is damaged.
    """
    heads = {w.writer: w.seq for w in tables.writers(db)}
    done = _done(db)
    new = {w for w, seq in heads.items() if w.startswith(WRITERS) and seq > done.get(w, 0)}
    if not new:
        return None
    after = {w: done.get(w, 0) if w in new else seq for w, seq in heads.items()}
    ready: list[Erasure | RetentionRule] = []
    decisions, reached, waiting = set[str](), dict[str, int](), set[str]()
    elsewhere = tables.replicated_writers(db)  # their rules remove nothing here: see `_expired`
    for row in _records_of(folder, RecordQuery(kinds=KEPT_KINDS, after=after, columns=_COLUMNS)):
        writer = row["writer"]
        if row["kind"] == "retention" and writer in elsewhere:
            continue
        act = _act_of(row)
        if writer in waiting or any(seq > heads.get(of, 0) for of, seq in _last(act)):
            waiting.add(writer)
            continue
        ready.append(act)
        if isinstance(act, Erasure):
            decisions.add(row["decision_id"])
        reached[writer] = row["seq"]
    erased = numbers_of(one for one in ready if isinstance(one, Erasure))
    ranges = expired_ranges(one for one in ready if isinstance(one, RetentionRule))
    numbers = {of: sorted(held) for of, held in erased.items()}
    return PendingErasures(numbers, decisions, ranges, reached) if ready else None


def removal_records(folder: Path) -> RemovalRecords:
    """The payloads whose erasure, or end of retention, is on record.

    Raises:
        Corrupt: the payload of an erasure or retention record is damaged.
    """
    rows = _records_of(folder, RecordQuery(kinds=KEPT_KINDS, columns=_COLUMNS))
    erasures = [erasure_of(row["payload"]) for row in rows if row["kind"] == "erasure"]
    rules = [row for row in rows if row["kind"] == "retention"]
    return RemovalRecords(numbers_of(erasures), _expired(folder, rules))


def ranges_to_expire(folder: Path) -> Mapping[str, Sequence[ExpiredRange]]:
    """Ranges by writer in which payloads may be missing because of their age.

    Raises:
        Corrupt: the payload of a retention record is damaged.
    """
    return _expired(
        folder, _records_of(folder, RecordQuery(kinds=("retention",), columns=_COLUMNS))
    )


def rules_of(folder: Path, model: str) -> list[RetentionRule]:
    """The retention rules of a model that this log itself has on record.

    Raises:
        Corrupt: the payload of a retention record is damaged.
    """
    own = _own_writers(folder)
    rows = _records_of(folder, RecordQuery(model, ("retention",), columns=_COLUMNS))
    return [rule_of(row) for row in rows if row["writer"] in own]


def _expired(
    folder: Path, rows: Sequence[Mapping[str, Any]]
) -> Mapping[str, Sequence[ExpiredRange]]:
    """Ranges in which payloads expire here. A rule of a log elsewhere removes nothing here: it only
    explains why records from elsewhere have no payload. A rule that is not understood gives no
    range."""
    own, rules = _own_writers(folder), []
    for row in rows:
        if row["writer"] in own:
            rules.append(rule_of(row))
            continue
        try:
            rules.append(rule_of(row).without(own))
        except Corrupt as error:
            _logger.error("record %d of writer %s: %s", row["seq"], row["writer"], error)
    return expired_ranges(rules)


def _own_writers(folder: Path) -> Set[str]:
    with closing(sqlite.connect(folder / tables.DATABASE)) as db:
        return {w.writer for w in tables.writers(db)} - tables.replicated_writers(db).keys()


def steps(db: sqlite3.Connection, folder: Path, most_records: int = _NO_LIMIT) -> Iterator[str]:
    """Carry out pending erasures. At each yield the process may safely be killed.

    Call with the lock of `seal`. What can't be done now (a damaged file, a file or a write-ahead
    log that is being read) stays pending for the next call.

    Args:
        most_records: most records in the files that one call writes again; other files wait for the
            next call.
    """
    todo = pending_erasures(db, folder)
    if todo is None:
        return
    sealed_files.begin(folder)
    is_done = yield from _files(db, folder, todo, most_records)
    if not sealed_files.sweep(db, folder):
        _logger.warning("payloads are not erased yet: files of %s are being read", folder)
        return
    yield "files with erased payloads removed"
    db.execute("PRAGMA secure_delete=ON")
    yield from _rows(db, todo.numbers)
    yield from _expired_rows(db, todo.ranges)
    # a retry with an erased key is then a new request
    yield from kept_keys.erase(db, todo.decisions)
    _close_writers(db)
    # first without rewriting: while somebody reads, each rewrite makes the write-ahead log longer
    wait_ms = _CHECKPOINT_WAIT_MS if todo.decisions else _SHORT_WAIT_MS
    if not is_done or not _empty(db, wait_ms):
        return
    # free pages of rows that were sealed or deleted earlier still hold the old content
    yield from _vacuum(db) if todo.decisions else _return_free_pages(db)
    if not _empty(db, wait_ms):
        return
    yield "write-ahead log emptied"
    with sqlite.transaction(db):
        db.execute(_TABLE)
        db.executemany(_DONE, todo.reached.items())
        db.execute("DELETE FROM erased_files")
    yield "erasures done"


def _records_of(folder: Path, query: RecordQuery) -> list[dict[str, Any]]:
    """The records of a query, ordered by writer and number."""
    import pyarrow as pa

    try:
        with closing(sqlite.connect(folder / tables.DATABASE)) as db:
            found: list[dict[str, Any]] = reader.read(db, folder, query).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Corrupt(f"a sealed file of {folder} cannot be read; {CHECK}") from error
    return found


def _act_of(row: Mapping[str, Any]) -> Erasure | RetentionRule:
    return rule_of(row) if row["kind"] == "retention" else erasure_of(row["payload"])


def _last(act: Erasure | RetentionRule) -> Iterator[tuple[str, int]]:
    """The number of the last record of each writer that the act is about."""
    if isinstance(act, Erasure):
        yield from ((of, max(numbers, default=0)) for of, numbers in act.records.items())
    else:
        yield from ((of, ranges[-1][1]) for of, ranges in act.retention.ranges.items() if ranges)


def _files(
    db: sqlite3.Connection, folder: Path, todo: PendingErasures, most_records: int
) -> Generator[str, None, bool]:
    """Write the files again that hold any of these payloads. Returns whether no such file is
    left."""
    is_done, written = True, 0
    done, holding = _files_done(db, todo), _holding(folder, todo)
    for file in sealed_files.present(db):
        numbers, ranges = todo.within(file)
        ranges = [one for one in ranges if file.file in holding[one.model]]
        if file.file in done or not (numbers or ranges):
            continue
        if written >= most_records:
            return False
        written += file.rows
        try:
            yield from _rewrite(db, folder, file, numbers, ranges, todo.work)
        except Corrupt as error:
            _logger.error("payloads are not erased yet: %s", error)
            is_done = False
    return is_done


def _files_done(db: sqlite3.Connection, todo: PendingErasures) -> set[int]:
    with sqlite.transaction(db):
        db.execute(_FILES_DONE)
        db.execute("DELETE FROM erased_files WHERE work <> ?", (todo.work,))
        return {file for (file,) in db.execute("SELECT file FROM erased_files")}


def _holding(folder: Path, todo: PendingErasures) -> Mapping[str, Set[int]]:
    """The files that may hold records whose payloads expire, by model."""
    models = {one.model for ranges in todo.ranges.values() for one in ranges}
    with closing(sqlite.connect(folder / tables.DATABASE)) as db:
        catalogue.attach(db, folder)
        return {
            m: {f.file for f in catalogue.files_of_query(db, RecordQuery(model=m))} for m in models
        }


def _rewrite(
    db: sqlite3.Connection,
    folder: Path,
    file: SealedFile,
    numbers: Sequence[int],
    ranges: Sequence[ExpiredRange],
    work: str,
) -> Iterator[str]:
    """Replace a file by one without these payloads; everything else in it stays."""
    table = compaction.records_of(folder, [file])
    without = _without(table, numbers, ranges)
    if without is None:
        db.execute("INSERT OR IGNORE INTO erased_files VALUES (?, ?)", (file.file, work))
        return
    path = sealed_files.merged([file]).path(folder)
    draft = path.with_suffix(".tmp")
    sha256 = segments.write_table(draft, without)
    yield "draft without payloads written"
    if not segments.read_table(draft).equals(without):
        raise Corrupt(f"{draft}: what was read back differs from what was written")
    draft.replace(path)
    sync(path.parent)
    yield "file without payloads in place"
    with sqlite.transaction(db):
        number = sealed_files.replace(db, [file], sha256)
        db.execute("INSERT INTO erased_files VALUES (?, ?)", (number, work))
    yield "file without payloads listed"


def _without(
    table: pa.Table, numbers: Sequence[int], ranges: Sequence[ExpiredRange]
) -> pa.Table | None:
    """The records without the payloads of these; None if none of these has a payload."""
    import pyarrow as pa
    import pyarrow.compute as pc

    payloads, seq, event_ms = (table.column(name) for name in ("payload", "seq", "event_ms"))
    goes = pc.is_in(seq, value_set=pa.array(numbers, pa.int64()))
    kept = pc.is_in(table.column("kind"), value_set=pa.array(KEPT_KINDS))
    for one in ranges:
        first, last, before_ms = map(pa.scalar, (one.first, one.last, one.before_ms))
        inside = pc.and_(pc.greater_equal(seq, first), pc.less_equal(seq, last))
        own = pc.and_(inside, pc.equal(table.column("model"), pa.scalar(one.model)))
        old = pc.and_not(pc.less(event_ms, before_ms), kept)
        goes = pc.or_(goes, pc.and_(own, old))
    if not pc.any(pc.and_(goes, pc.is_valid(payloads))).as_py():
        return None
    return sealed_form.without_payloads(table, goes)


def _rows(db: sqlite3.Connection, numbers: Mapping[str, Sequence[int]]) -> Iterator[str]:
    for writer, held in sorted(numbers.items()):
        for start in range(0, len(held), _BITE_ROWS):
            bite = held[start : start + _BITE_ROWS]
            with sqlite.throttled(), sqlite.transaction(db):
                unsealed_records.remove_payloads(db, writer, bite)
            yield "payloads of rows erased"


def _expired_rows(
    db: sqlite3.Connection, ranges: Mapping[str, Sequence[ExpiredRange]]
) -> Iterator[str]:
    due = (
        f"model = ? AND event_ms < ? AND kind NOT IN ({','.join('?' * len(KEPT_KINDS))})"
        " AND payload IS NOT NULL"
    )
    for writer, of_writer in sorted(ranges.items()):
        for one in of_writer:
            while found := unsealed_records.select(
                db,
                ("seq",),
                writer,
                after=one.first - 1,
                last=one.last,
                where=due,
                values=(one.model, one.before_ms, *KEPT_KINDS),
                limit=_BITE_ROWS,
            ):
                yield from _rows(db, {writer: [seq for (seq,) in found]})


def _close_writers(db: sqlite3.Connection) -> None:
    """Close this log's writers of erasures, whether or not they were killed, so that nobody waits
    for them."""
    elsewhere = tables.replicated_writers(db)
    names = [w.writer for w in tables.writers(db) if w.writer.startswith(WRITERS) and not w.closed]
    with sqlite.transaction(db):
        for name in names:
            if name not in elsewhere:
                db.execute("UPDATE writers SET closed = 1 WHERE writer = ?", (name,))


def _vacuum(db: sqlite3.Connection) -> Iterator[str]:
    db.execute("VACUUM")
    yield "database written anew"


def _return_free_pages(db: sqlite3.Connection) -> Iterator[str]:
    """Give free pages back to the file system, in small steps, so that nobody waits longer than one
    step."""
    has_more = True
    while has_more:
        with sqlite.throttled():
            has_more = sqlite.shrink(db, keep_pages=0)
        yield "free pages given back"


def _empty(db: sqlite3.Connection, wait_ms: int) -> bool:
    """Whether the write-ahead log holds nothing any more; false while somebody reads it."""
    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()  # most of it, while no writer waits
    db.execute(f"PRAGMA busy_timeout={wait_ms}")
    (is_busy, _, _) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    db.execute(f"PRAGMA busy_timeout={sqlite.BUSY_TIMEOUT_MS}")
    return not is_busy


def _done(db: sqlite3.Connection) -> dict[str, int]:
    known = "SELECT 1 FROM sqlite_schema WHERE name = 'erasures_done'"
    if db.execute(known).fetchone() is None:
        return {}
    return dict(db.execute("SELECT writer, seq FROM erasures_done").fetchall())
