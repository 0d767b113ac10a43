"""The counts of a generation, kept in a file to which each pass adds the new records of the log.

The file follows from the log and may be deleted at any time; then everything is counted again, in
portions. A portion is one transaction, so that a pass that is killed leaves the file as it was
before or after it. If several passes and reads for people run at once, one counts and the others
wait.

Records that nobody can add to any more are counted for good, up to a line in event time. Those
after it wait in the file, and are counted in a transaction that is rolled back.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pyarrow as pa

from mlplatform.decisions.records.port import DecisionLog, RecordQuery, Watermark
from mlplatform.decisions.records.record import Kind
from mlplatform.model.policies.decision_scale import EARLIER
from mlplatform.rollouts.cache.files import file_of, folder_lock, with_file
from mlplatform.rollouts.cache.portions import PORTION, common_positions, next_portion, up_to
from mlplatform.rollouts.passes import count_store
from mlplatform.rollouts.passes.count_store import State
from mlplatform.rollouts.verdicts.aggregates import Aggregates
from mlplatform.rollouts.verdicts.completeness import complete_until_ms
from mlplatform.rollouts.verdicts.facts import Subject, VariantSubject, facts
from mlplatform.runtime.canonical import digest
from mlplatform.runtime.storage import sqlite

FORMAT = 4
"""Version of the counts and their form; another number starts new files."""
CACHE_KIB = 65_536
"""SQLite's page cache, in KiB. A pass of 10,000 records of as many customers touches some thousand
pages of a file that may be gigabytes, once for each view: they stay in memory until it commits."""
MOST_WAITING = 100_000
"""Most records after the line that each pass counts again. If a writer stands still for longer, the
line passes it, and health is not shown until that writer has passed the line."""


@dataclass(frozen=True, slots=True)
class LogCounts:
    """The counts of the records in the log.

    Args:
        seen: counts of all records.
        complete: counts of the records up to `line_ms`, to which no more records can come. It is
            `seen` itself if there are no later records.
        line_ms: event time up to which records are complete.
        watermarks: positions up to which the log was read.
    """

    seen: Aggregates
    complete: Aggregates
    line_ms: int
    watermarks: tuple[Watermark, ...]


def count(
    folder: Path,
    log: DecisionLog,
    model: str,
    subject: Subject,
    watermarks: Sequence[Watermark] | None = None,
    *,
    line_ms: int | None = None,
    portion: int = PORTION,
) -> LogCounts:
    """The counts of a generation's records. Only records that were not counted before are read.

    Args:
        folder: folder of the files, one for each model, role and generation; it is created at first
            use.
        watermarks: watermarks of an earlier count, to repeat it; None means the present ones. They
            are read before the records, so the log holds everything that they cover.
        line_ms: `line_ms` of an earlier count, to repeat it; None means the value that follows from
            the watermarks.

    Raises:
        Unavailable: the log or the file can't be read or written now.
    """
    with folder_lock(folder / model):
        marks = tuple(log.watermarks() if watermarks is None else watermarks)
        return _counts_of(
            _path(folder, model, subject), log, model, subject, marks, line_ms, portion
        )


def _counts_of(
    path: Path,
    log: DecisionLog,
    model: str,
    subject: Subject,
    watermarks: tuple[Watermark, ...],
    line_ms: int | None,
    portion: int,
) -> LogCounts:
    def fits(db: sqlite3.Connection) -> bool:
        return not _is_of_another_log(count_store.load(db), watermarks)

    def work(db: sqlite3.Connection) -> LogCounts:
        db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        return _Counter(db, log, model, subject, watermarks, portion, line_ms).count()

    return with_file(path, count_store.TABLES, fits=fits, work=work)


def _path(folder: Path, model: str, subject: Subject) -> Path:
    """The subject's file; those of earlier generations in its role are deleted."""
    within = subject.within_us if math.isfinite(subject.within_us) else None
    segments = msgspec.to_builtins(subject.segments)
    identified: list[object] = [FORMAT, subject.role, subject.version, within, segments]
    if subject.scale != EARLIER:  # otherwise as before scales existed
        identified += [subject.scale.names, subject.scale.alerts]
        identified += ["by class"] * subject.scale.by_class
        if subject.scale.number is not None:
            identified.append(subject.scale.number.tolerance)
    identified += ["by decision"] * subject.by_decision
    name: str = subject.role
    if isinstance(subject, VariantSubject):
        name = f"variant{subject.version}"  # variants of one generation each have a file
        identified.append(subject.buckets)
    return file_of(folder / model, name, subject.generation, digest(identified)[:8])


def _is_of_another_log(state: State, watermarks: Sequence[Watermark]) -> bool:
    """Whether the counts reach further than the log, as they do after the log was restored from a
    backup; then all is counted from the beginning."""
    there = {mark.writer: mark.seq for mark in watermarks}
    return any(there.get(writer, 0) < seq for writer, seq in state.position.items())


class _Counter:
    def __init__(
        self,
        db: sqlite3.Connection,
        log: DecisionLog,
        model: str,
        subject: Subject,
        watermarks: tuple[Watermark, ...],
        portion: int,
        line_ms: int | None,
    ) -> None:
        self._db = db
        self._log = log
        self._model = model
        self._subject = subject
        self._watermarks = watermarks
        self._marks = {mark.writer: mark.seq for mark in watermarks}
        self._complete_ms = complete_until_ms(watermarks)
        self._line_ms = line_ms
        self._portion = portion

    def count(self) -> LogCounts:
        while self._add():
            pass
        self._settle()
        state = count_store.load(self._db)
        complete = count_store.aggregates_of(self._db, state, self._subject)
        seen = self._with_waiting() or complete
        return LogCounts(seen, complete, state.line_ms, self._watermarks)

    def _add(self) -> bool:
        """Count the next records. Returns whether there may be more."""
        with sqlite.transaction(self._db):
            state = count_store.load(self._db)
            if state.position == self._marks:
                return False
            line = self._line(state)
            kinds: tuple[Kind, ...] = ("decision", "shadow", "inference")
            generation = self._subject.generation
            records, full = self._read(state, kinds, generation)
            voids, voids_full = self._read(state, ("void",), None)
            position = common_positions(self._marks, full, voids_full)
            found = facts(up_to(records, position), self._subject)
            waits = found.rows["event_ms"] > line
            voided = {str(i) for i in up_to(voids, position)["decision_id"].to_pylist()}
            count_store.wait(self._db, found.of(waits))
            count_store.add_records(self._db, state, self._subject, found.of(~waits), voided)
            state.position = position
            count_store.save(self._db, state)
        return bool(full or voids_full)

    def _line(self, state: State) -> float:
        """Event time up to which records are complete; infinite if no writer has reported, which
        `behind` reports."""
        if self._line_ms is not None:
            return self._line_ms
        return math.inf if self._complete_ms is None else max(self._complete_ms, state.line_ms)

    def _read(
        self, state: State, kinds: tuple[Kind, ...], generation: int | None
    ) -> tuple[pa.Table, dict[str, int]]:
        """The records after the position, and the last number read of each writer that may have
        more."""
        query = RecordQuery(
            model=self._model,
            kinds=kinds,
            generation=generation,
            after=state.position,
            limit=self._portion,
            columns=self._subject.columns,
        )
        return next_portion(self._log, query)

    def _settle(self) -> None:
        """Count the records that the line has passed, and let the line pass a writer that stands
        still for too long."""
        with sqlite.transaction(self._db):
            state = count_store.load(self._db)
            line = self._line(state)
            if (
                self._line_ms is None
                and count_store.waiting_records(self._db, after_ms=line) > MOST_WAITING
            ):
                line = math.inf
            while len(due := count_store.due(self._db, line, self._portion)):
                count_store.add_records(self._db, state, self._subject, due, set())
            latest = state.extent.until_event_ms or 0
            state.line_ms = max(state.line_ms, latest if math.isinf(line) else int(line))
            count_store.save(self._db, state)

    def _with_waiting(self) -> Aggregates | None:
        """The counts with the records after the line; None if there are none."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            state = count_store.load(self._db)
            if not count_store.waiting_records(self._db, after_ms=-math.inf):
                return None
            while len(due := count_store.due(self._db, math.inf, self._portion)):
                count_store.add_records(self._db, state, self._subject, due, set())
            return count_store.aggregates_of(self._db, state, self._subject)
        finally:
            self._db.rollback()
