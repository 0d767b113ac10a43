"""Findings about past days, kept in a file until the log holds more records of those days.

The file follows from the log and may be deleted at any time; then all days are read again. It holds
up to which number of each writer the log is in it. A check first looks at what was appended since,
and drops the days that a late decision or label, or a void, has changed. A day is one transaction,
so that a check that is killed leaves the file as it was before or after a day.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa

from mlplatform.decisions.records.port import DecisionLog, RecordQuery
from mlplatform.decisions.records.record import Kind
from mlplatform.rollouts.cache.files import file_of, folder_lock, with_file
from mlplatform.rollouts.cache.portions import PORTION, common_positions, next_portion, up_to
from mlplatform.runtime.canonical import digest
from mlplatform.runtime.storage import sqlite
from mlplatform.runtime.units import DAY_MS

TABLES: Final = """
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS days (number INTEGER PRIMARY KEY, found BLOB NOT NULL) STRICT;
"""
FORMAT: Final = 1
"""Version of the file's content and its form; another number starts new files."""
IDS_AT_ONCE: Final = 500
"""The number of voided decisions that one read of the log looks up."""


@dataclass(frozen=True, slots=True)
class DayQuery:
    """The question that is asked of each day.

    Args:
        version: version of the champion; files of earlier champions are deleted.
        identity: all values that determine the findings, besides the log.
        late_ms: milliseconds after the end of a day in which its labels still count.
    """

    model: str
    version: int
    identity: Sequence[object]
    late_ms: int


Reading = Callable[[Sequence[int]], Iterable[tuple[int, bytes]]]


def findings_by_day(
    folder: Path, log: DecisionLog, query: DayQuery, numbers: Sequence[int], read: Reading
) -> dict[int, bytes]:
    """The findings about each of these days; a day without stored findings is read from the log.

    Args:
        folder: folder of the files, one for each model and champion; it is created at first use.
        numbers: numbers of the days, counted from 1 January 1970 UTC (day 0).
        read: reads the findings of the given days from the log; it yields (number, finding) in
            their order.

    Raises:
        Unavailable: the log or the file can't be read or written now.
    """
    own = folder / query.model / "days"
    with folder_lock(own):
        marks = {mark.writer: mark.seq for mark in log.watermarks()}
        path = file_of(own, "days", query.version, digest([FORMAT, *query.identity])[:8])
        fits = partial(_fits, marks=marks)

        def work(db: sqlite3.Connection) -> dict[int, bytes]:
            while _catch_up(db, log, query, marks):
                pass
            return _read_days(db, numbers, read)

        return with_file(path, TABLES, fits=fits, work=work)


def _read_days(db: sqlite3.Connection, numbers: Sequence[int], read: Reading) -> dict[int, bytes]:
    kept = dict(db.execute("SELECT number, found FROM days"))
    for number, found in read([number for number in numbers if number not in kept]):
        with sqlite.transaction(db):
            db.execute("INSERT INTO days VALUES (?, ?)", (number, found))
        kept[number] = found
    return {number: kept[number] for number in numbers}


def _fits(db: sqlite3.Connection, marks: dict[str, int]) -> bool:
    """Whether the file reaches no further than the log. It reaches further where the log was
    restored from a backup; then all is read from the beginning."""
    return all(seq <= marks.get(writer, 0) for writer, seq in _position(db).items())


def _position(db: sqlite3.Connection) -> dict[str, int]:
    row = db.execute("SELECT value FROM state").fetchone()
    return {} if row is None else msgspec.json.decode(row[0], type=dict[str, int])


def _catch_up(
    db: sqlite3.Connection, log: DecisionLog, query: DayQuery, marks: dict[str, int]
) -> bool:
    """Drop the days that the next records change. Returns whether there may be more records."""
    with sqlite.transaction(db):
        position, more = _position(db), False
        first, last = db.execute("SELECT min(number), max(number) FROM days").fetchone()
        if position == marks:
            return False
        if first is not None:
            kept = (first * DAY_MS, (last + 1) * DAY_MS)
            of_days, full = _next(
                log, query, ("decision", "label"), position, kept[1] + query.late_ms
            )
            voids, voids_full = _next(log, query, ("void",), position, None)
            marks, more = common_positions(marks, full, voids_full), bool(full or voids_full)
            changed = [*_changed(up_to(of_days, marks), query.late_ms)]
            changed += _days_of(log, query.model, up_to(voids, marks), kept)
            db.executemany("DELETE FROM days WHERE number BETWEEN ? AND ?", set(changed))
        db.execute(
            "INSERT OR REPLACE INTO state VALUES ('state', ?)", (msgspec.json.encode(marks),)
        )
    return more


def _next(
    log: DecisionLog,
    query: DayQuery,
    kinds: tuple[Kind, ...],
    position: dict[str, int],
    to_ms: int | None,
) -> tuple[pa.Table, dict[str, int]]:
    columns = ("writer", "seq", "kind", "decision_id", "event_ms")
    records = RecordQuery(
        model=query.model, kinds=kinds, to_ms=to_ms, after=position, limit=PORTION, columns=columns
    )
    return next_portion(log, records)


def _changed(rows: pa.Table, late_ms: int) -> Iterator[tuple[int, int]]:
    """First and last day that each record may change: of a decision its own day, of a label all
    days from `late_ms` before it."""
    event_ms = rows["event_ms"].to_numpy()
    is_label = rows["kind"].to_numpy() == "label"
    first = np.where(is_label, event_ms - late_ms, event_ms) // DAY_MS
    yield from zip(first.tolist(), (event_ms // DAY_MS).tolist(), strict=True)


def _days_of(
    log: DecisionLog, model: str, voids: pa.Table, kept: tuple[int, int]
) -> Iterator[tuple[int, int]]:
    """First and last day of each voided decision, which are the same day."""
    ids = sorted({str(i) for i in voids["decision_id"].to_pylist()})
    for start in range(0, len(ids), IDS_AT_ONCE):
        query = RecordQuery(
            model=model, kinds=("decision",), from_ms=kept[0], to_ms=kept[1],
            decision_ids=tuple(ids[start : start + IDS_AT_ONCE]), columns=("event_ms",),
        )  # fmt: skip
        for day in (log.read(query)["event_ms"].to_numpy() // DAY_MS).tolist():
            yield day, day
