"""A pass of retention over one model: due payloads are found, and put on record before they go."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlplatform.decisions.log import catalogue, erasure, seal, sealed_files
from mlplatform.decisions.log.erasure_acts import own_writer
from mlplatform.decisions.log.retention import (
    DuePayloads,
    HeldPayloads,
    due_payloads,
    reached_ms,
    rests_until_ms,
)
from mlplatform.decisions.log.sealed_files import SealedFile
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records import tables, unsealed_records
from mlplatform.decisions.records.port import RecordQuery
from mlplatform.decisions.records.retention import (
    KEPT_KINDS,
    ExpiredRange,
    Retention,
    RetentionRule,
    expired_ranges,
    retention_record,
)
from mlplatform.decisions.records.sqlite_errors import Translation
from mlplatform.runtime.storage import sqlite
from mlplatform.runtime.units import DAY_MS

_READ: Final = ("model", "kind", "event_ms")
_OWN: Final = f"model = ? AND kind NOT IN ({','.join('?' * len(KEPT_KINDS))})"
_logger = logging.getLogger(__name__)


def due(
    log: SqliteDecisionLog, folder: Path, model: str, *, payload_days: int, wall_ms: int
) -> DuePayloads | None:
    """The payloads of a model that would go now; nothing is written. None if the log has no event
    time.

    Args:
        folder: the log's folder.
        payload_days: days for which model.yaml keeps payloads.

    Raises:
        Unavailable: the log does not answer.
        Corrupt: the log is damaged.
    """
    now_ms = reached_ms(log.latest_event_ms(), wall_ms)
    if now_ms is None:
        return None
    before_ms = now_ms - payload_days * DAY_MS
    path = folder / tables.DATABASE
    with Translation(path), closing(sqlite.connect(path)) as db, sealed_files.hold_files(folder):
        rules = erasure.rules_of(folder, model)
        held = list(_uncovered_payloads(db, folder, model, rules, before_ms))
    return due_payloads(held, rules, payload_days=payload_days, now_ms=now_ms, wall_ms=wall_ms)


def record(
    log: SqliteDecisionLog,
    folder: Path,
    model: str,
    *,
    act: str,
    payload_days: int,
    wall_ms: int,
) -> DuePayloads | None:
    """Put the due payloads on record, if there are any: from then on each seal removes them.
    Returns what `due` returns.

    Args:
        act: new id of the act.

    Raises:
        Busy: another process seals; nothing is recorded.
        Unavailable, Corrupt: for the same reasons as in `due`.
    """
    with seal.lock(folder):
        found = due(log, folder, model, payload_days=payload_days, wall_ms=wall_ms)
        if found is None or found.before_ms is None:
            return found
        retention = Retention(
            act, payload_days, found.before_ms, found.payloads, dict(found.ranges)
        )
        event_ms = log.latest_event_ms() or wall_ms
        entry = retention_record(model, retention, event_ms=event_ms, recorded_ms=wall_ms)
        writer = own_writer(folder, act)
        log.append(writer, [entry])
        log.close_writer(writer)
    _logger.info("%d payloads of %s are removed by retention (act %s)", found.payloads, model, act)
    if found.later:
        _logger.warning("%d more payloads of %s are due, and are removed later", found.later, model)
    return found


def is_resting(folder: Path, model: str, *, wall_ms: int) -> bool:
    """Whether the last pass was less than a day ago; no file is read.

    Raises:
        Unavailable, Corrupt: for the same reasons as in `due`.
    """
    with Translation(folder / tables.DATABASE):
        return rests_until_ms(erasure.rules_of(folder, model), wall_ms) is not None


def carry_out(folder: Path) -> bool:
    """Remove all payloads that are on record from the log, at once. Returns whether nothing is left
    to do.

    Raises:
        Busy: another process is sealing and removes them itself.
    """
    path = folder / tables.DATABASE
    with seal.lock(folder), Translation(path), closing(sqlite.connect(path)) as db:
        for _ in erasure.steps(db, folder):
            pass
        return erasure.pending_erasures(db, folder) is None


def _uncovered_payloads(
    db: sqlite3.Connection,
    folder: Path,
    model: str,
    rules: Sequence[RetentionRule],
    before_ms: int,
) -> Iterator[HeldPayloads]:
    """The payloads of a model that no rule covers."""
    covered = {
        writer: [one for one in ranges if one.model == model]
        for writer, ranges in expired_ranges(rules).items()
    }
    for writer in tables.writers(db):
        own = covered.get(writer.writer, ())
        yield from _of_rows(db, writer, own, model, before_ms)
    catalogue.attach(db, folder)
    files = [
        file
        for file in catalogue.files_of_query(db, RecordQuery(model=model))
        if not any(
            r.first <= file.first and file.last <= r.last for r in covered.get(file.writer, ())
        )
    ]
    oldest = min((file.from_ms for file in files), default=before_ms)
    for file in files:
        if file.from_ms >= before_ms and file.from_ms > oldest:
            yield HeldPayloads(file.writer, file.first, file.last, 0, file.from_ms, file.to_ms)
        elif (found := _of_file(folder, file, model, before_ms)) is not None:
            yield found


def _of_file(folder: Path, file: SealedFile, model: str, before_ms: int) -> HeldPayloads | None:
    try:
        with pq.ParquetFile(file.path(folder)) as opened:
            table = opened.read(list(_READ))
    except (pa.ArrowException, OSError, ValueError) as error:
        _logger.error("payloads of %s stay; %s: %s", file.name, erasure.CHECK, error)
        to_ms = max(file.to_ms, before_ms)
        return HeldPayloads(file.writer, file.first, file.last, 0, file.from_ms, to_ms)
    own = (pc.field("model") == model) & ~pc.field("kind").isin(list(KEPT_KINDS))
    times = table.filter(own).column("event_ms")
    if not len(times):
        return None
    from_ms, to_ms = pc.min(times).as_py(), pc.max(times).as_py()
    return HeldPayloads(file.writer, file.first, file.last, len(times), from_ms, to_ms)


def _of_rows(
    db: sqlite3.Connection,
    writer: tables.Writer,
    covered: Sequence[ExpiredRange],
    model: str,
    before_ms: int,
) -> Iterator[HeldPayloads]:
    """The payloads in a writer's unsealed records: those before the model's first record that is
    not due, and those from there on."""
    name, own = writer.writer, (model, *KEPT_KINDS)
    start = tables.sealed_end(db, name)[0] + 1
    start = max([start, *(r.last + 1 for r in covered if r.first <= start <= r.last)])
    columns = ("seq", "event_ms")
    kept = unsealed_records.select(
        db,
        columns,
        name,
        after=start - 1,
        where=f"{_OWN} AND event_ms >= ?",
        values=(*own, before_ms),
        limit=1,
    )
    end = kept[0][0] - 1 if kept else None
    before = unsealed_records.select(
        db, columns, name, after=start - 1, last=end, where=_OWN, values=own
    )
    if before:
        times = [event_ms for _, event_ms in before]
        yield HeldPayloads(name, start, before[-1][0], len(before), min(times), max(times))
    for seq, event_ms in kept:
        yield HeldPayloads(name, seq, max(writer.seq, seq), 0, event_ms, event_ms)
