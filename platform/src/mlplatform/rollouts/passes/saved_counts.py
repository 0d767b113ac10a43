"""What was counted of a generation, kept in a file: a pass adds what is new in the log.

The file follows from the log and may be deleted at any time; then everything is counted again, in
portions. A portion is one transaction, so that a pass that is killed leaves the file as it was
before or after it. Of passes and looks that run at once one counts, and the others wait.

Records that nobody can add to any more are counted for good, up to a line in event time. Those
after it wait in the file, and are counted in a transaction that is rolled back.
"""

from __future__ import annotations

import fcntl
import math
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from mlplatform.decisions.records.port import DecisionLog, Span, Watermark
from mlplatform.decisions.records.record import Kind
from mlplatform.model.policies.decision_scale import EARLIER
from mlplatform.rollouts.passes import fold
from mlplatform.rollouts.passes.fold import State
from mlplatform.rollouts.verdicts.aggregates import Aggregates
from mlplatform.rollouts.verdicts.completeness import complete_until_ms
from mlplatform.rollouts.verdicts.facts import Subject, facts
from mlplatform.runtime.canonical import digest
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.storage import sqlite

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 2
"""Of what is counted, and how: another number starts new files."""
PORTION = 20_000
"""Records of each writer that are counted in one transaction: they have to fit into memory."""
MOST_WAIT_S = 600.0
"""For another process that counts; a first count of many millions takes minutes."""
MOST_WAITING = 100_000
"""Records after the line that each pass counts again. Where a writer stands still for longer, the
line passes it, and health is not shown before that writer has passed the line."""


@dataclass(frozen=True, slots=True)
class LogCounts:
    """What is in the log.

    Args:
        seen: everything.
        complete: what nobody can add to any more; `seen` itself where that is everything.
        line_ms: event time up to which that is.
        watermarks: up to which the log was read.
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
    """A generation's records, of which only those are read that were not counted before.

    Args:
        folder: holds the files, one for each model, role and generation; made at first use.
        watermarks: of an earlier count, to have it again; None: those of now. They are read before
            the records: whatever they promise is in the log then.
        line_ms: of an earlier count, to have it again; None: as the watermarks say.

    Raises:
        Unavailable: the log or the file can't be read or written now.
    """
    with _alone(folder / model):
        marks = tuple(log.watermarks() if watermarks is None else watermarks)
        return _counted(_path(folder, model, subject), log, model, subject, marks, line_ms, portion)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One counts at a time; the kernel lets go when the holder dies."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    give_up_s = time.monotonic() + MOST_WAIT_S
    with (folder / "lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > give_up_s:
                    raise Unavailable(f"{folder}: somebody else has counted for long") from error
                time.sleep(0.05)
        yield


def _counted(
    path: Path,
    log: DecisionLog,
    model: str,
    subject: Subject,
    watermarks: tuple[Watermark, ...],
    line_ms: int | None,
    portion: int,
) -> LogCounts:
    for attempt in ("kept", "new"):
        try:
            with closing(sqlite.connect(path, tables=fold.TABLES)) as db:
                if not _is_of_another_log(fold.load(db), watermarks):
                    counting = _Counting(db, log, model, subject, watermarks, portion, line_ms)
                    return counting.counted()
        except sqlite3.OperationalError as error:
            raise Unavailable(f"{path}: {error}") from error
        except sqlite3.DatabaseError as error:
            if attempt == "new":
                raise Unavailable(f"{path} is damaged again: {error}") from error
        _remove(path)
    raise Unavailable(f"{path}: the decision log has lost records while it was counted")


def _path(folder: Path, model: str, subject: Subject) -> Path:
    """The subject's file; those of earlier generations in its role are deleted."""

    def generation(file: Path) -> int:
        return int(file.name.split("-")[1])

    within = subject.within_us if math.isfinite(subject.within_us) else None
    segments = msgspec.to_builtins(subject.segments)
    identified: list[object] = [FORMAT, subject.role, subject.version, within, segments]
    if subject.scale != EARLIER:  # else it is counted as before there were others
        identified += [subject.scale.names, subject.scale.alerts]
    identity = digest(identified)[:8]
    path = folder / model / f"{subject.role}-{subject.generation}-{identity}.db"
    if not path.exists() and path.parent.is_dir():
        for other in path.parent.glob(f"{subject.role}-*.db"):
            if generation(other) <= subject.generation:
                _remove(other)
    return path


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _is_of_another_log(state: State, watermarks: Sequence[Watermark]) -> bool:
    """A log that was put back is read from its beginning."""
    there = {mark.writer: mark.seq for mark in watermarks}
    return any(there.get(writer, 0) < seq for writer, seq in state.position.items())


class _Counting:
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

    def counted(self) -> LogCounts:
        while self._add():
            pass
        self._settle()
        state = fold.load(self._db)
        complete = fold.aggregates_of(self._db, state, self._subject)
        seen = self._with_waiting() or complete
        return LogCounts(seen, complete, state.line_ms, self._watermarks)

    def _add(self) -> bool:
        """Count the next records; whether there may be more."""
        with sqlite.transaction(self._db):
            state = fold.load(self._db)
            if state.position == self._marks:
                return False
            line = self._line(state)
            kinds: tuple[Kind, ...] = ("decision", "shadow", "inference")
            generation = self._subject.generation
            records, full = self._read(state, kinds, generation)
            voids, voids_full = self._read(state, ("void",), None)
            reached = {
                writer: min(seq, full.get(writer, seq), voids_full.get(writer, seq))
                for writer, seq in self._marks.items()
            }
            found = facts(up_to(records, reached), self._subject)
            waits = found.rows["event_ms"] > line
            voided = {str(i) for i in up_to(voids, reached)["decision_id"].to_pylist()}
            fold.wait(self._db, found.of(waits))
            fold.fold(self._db, state, self._subject, found.of(~waits), voided)
            state.position = reached
            fold.save(self._db, state)
        return bool(full or voids_full)

    def _line(self, state: State) -> float:
        """Everything is complete where no writer has said where it is: `behind` reports that."""
        if self._line_ms is not None:
            return self._line_ms
        return math.inf if self._complete_ms is None else max(self._complete_ms, state.line_ms)

    def _read(
        self, state: State, kinds: tuple[Kind, ...], generation: int | None
    ) -> tuple[pa.Table, dict[str, int]]:
        """Records after the position; the last number of each writer that may have more."""
        span = Span(
            model=self._model,
            kinds=kinds,
            generation=generation,
            after=state.position,
            limit=self._portion,
            columns=self._subject.columns,
        )
        table = self._log.read(span)
        full = {}
        if len(table) >= self._portion:
            groups = table.select(["writer", "seq"]).group_by("writer", use_threads=False)
            for row in groups.aggregate([("seq", "max"), ("seq", "count")]).to_pylist():
                if row["seq_count"] >= self._portion:
                    full[row["writer"]] = row["seq_max"]
        return table, full

    def _settle(self) -> None:
        """Count what has waited for the line, and pass a writer that stands still for too long."""
        with sqlite.transaction(self._db):
            state = fold.load(self._db)
            line = self._line(state)
            if self._line_ms is None and fold.waiting(self._db, after_ms=line) > MOST_WAITING:
                line = math.inf
            while len(due := fold.due(self._db, line, self._portion)):
                fold.fold(self._db, state, self._subject, due, set())
            latest = state.extent.until_event_ms or 0
            state.line_ms = max(state.line_ms, latest if math.isinf(line) else int(line))
            fold.save(self._db, state)

    def _with_waiting(self) -> Aggregates | None:
        """With what is after the line; None where nothing is."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            state = fold.load(self._db)
            if not fold.waiting(self._db, after_ms=-math.inf):
                return None
            while len(due := fold.due(self._db, math.inf, self._portion)):
                fold.fold(self._db, state, self._subject, due, set())
            return fold.aggregates_of(self._db, state, self._subject)
        finally:
            self._db.rollback()


def up_to(table: pa.Table, reached: Mapping[str, int]) -> pa.Table:
    """A mark is older than the records, and nothing after it was read by every read."""
    import pyarrow as pa

    if not len(table):
        return table
    marks = np.array([reached.get(str(w), 0) for w in table.column("writer").to_pylist()])
    return table.filter(pa.array(table.column("seq").to_numpy() <= marks))
