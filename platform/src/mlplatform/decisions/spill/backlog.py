"""The spills of a log, for readers of the log."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from mlplatform.decisions.records import tables
from mlplatform.decisions.records.port import Watermark
from mlplatform.decisions.records.prepared_record import StorableRecord
from mlplatform.decisions.records.record import SCALARS
from mlplatform.decisions.spill import files

_LISTINGS: Final = 5


@dataclass(frozen=True, slots=True)
class SpillBacklog:
    """Records of one writer that are not in the log yet; `oldest_ms` is of event time."""

    writer: str
    records: int
    bytes: int
    oldest_ms: int | None


def spill_backlogs(db: sqlite3.Connection, folder: Path) -> list[SpillBacklog]:
    """The spilled records of each writer, sorted by name.

    Args:
        db: connection without an open transaction. Records that are moved into the log during this
            call may still be counted.
    """
    for _ in range(_LISTINGS):
        names = _names(folder)
        found = [_backlog_of(db, folder, name) for name in names]
        if _names(folder) == names:  # a spill is renamed when another process takes it
            break
    return [one for one in found if one.records]


def records_of(
    db: sqlite3.Connection, folder: Path, decision_id: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Writer and fields of every spilled record of a decision."""
    for name in _names(folder):
        for record in _unmoved(db, folder, name):
            if record.decision_id == decision_id:
                fields = dict(zip(SCALARS[2:], record.form.scalars, strict=True))
                yield name, fields | {"payload": json.loads(record.form.payload)}


def spilled_records(db: sqlite3.Connection, folder: Path) -> Iterator[StorableRecord]:
    """The records in spills that are not in the log."""
    for name in _names(folder):
        yield from _unmoved(db, folder, name)


def spill_sizes(folder: Path) -> dict[str, int]:
    """Writer → bytes of its spill, without reading it; records that are in the log already may
    count."""
    sizes = {}
    for name in _names(folder):
        with contextlib.suppress(FileNotFoundError):  # it was moved into the log
            sizes[name] = files.spill_path(folder, name).stat().st_size
    return sizes


def damaged_spills(folder: Path) -> list[str]:
    """One sentence for each spill that was damaged when it was taken over."""
    names = sorted(name for name in _listed(folder) if name.endswith(files.DAMAGED))
    return [
        f"spill {name} is damaged: records after the damage are not in the log" for name in names
    ]


def lowered(marks: list[Watermark], spilled: list[SpillBacklog]) -> list[Watermark]:
    """Watermarks lowered so that none reaches past the oldest spilled record of its writer."""
    by_writer = {mark.writer: mark for mark in marks}
    for one in spilled:
        mark = by_writer.get(one.writer, Watermark(one.writer, 0, None, 0, live=True))
        times = [t for t in (mark.event_ms, one.oldest_ms) if t is not None]
        event_ms = min(times) if mark.event_ms is not None else None
        by_writer[one.writer] = replace(mark, event_ms=event_ms, live=True, spilled=one.records)
    return [by_writer[name] for name in sorted(by_writer)]


def _backlog_of(db: sqlite3.Connection, folder: Path, name: str) -> SpillBacklog:
    count, oldest = 0, None
    for record in _unmoved(db, folder, name):
        count += 1
        oldest = record.event_ms if oldest is None else min(oldest, record.event_ms)
    try:
        size = os.stat(files.spill_path(folder, name)).st_size
    except FileNotFoundError:
        size = 0
    return SpillBacklog(name, count, size, oldest)


def _unmoved(db: sqlite3.Connection, folder: Path, name: str) -> Iterator[StorableRecord]:
    try:
        descriptor = os.open(files.spill_path(folder, name), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        spill_id = files.spill_id(descriptor)
        if spill_id is not None:
            start = tables.spill_mark(db, spill_id) or files.START
            for frame in files.frames(descriptor, start):
                yield frame.record
    finally:
        os.close(descriptor)


def _names(folder: Path) -> list[str]:
    names = sorted(name for name in _listed(folder) if name.endswith(files.SUFFIX))
    return [name.removesuffix(files.SUFFIX) for name in names]


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
