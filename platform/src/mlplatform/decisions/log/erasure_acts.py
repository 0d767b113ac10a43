"""A person's act that erases payloads: its records are found, put on record, and their payloads
removed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa

from mlplatform.decisions.log import erasure, seal
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records import tables
from mlplatform.decisions.records.erasures import WRITERS, Erasure, erasure_record
from mlplatform.decisions.records.port import Entry, RecordQuery
from mlplatform.decisions.records.record import KINDS
from mlplatform.decisions.records.retention import KEPT_KINDS, AbsentPayload
from mlplatform.decisions.records.sqlite_errors import Translation
from mlplatform.decisions.spill.backlog import spilled_records
from mlplatform.runtime.errors import Busy, Corrupt, InputInvalid
from mlplatform.runtime.storage import sqlite

_KINDS: Final = tuple(kind for kind in KINDS if kind not in KEPT_KINDS)
_IDS: Final = 5_000
_ENTRIES: Final = 500
_TRIES: Final = 60
_WAIT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class ErasureRequest:
    """The payloads that an act erases, and who asks for it.

    Args:
        decision_id: erase every record of this decision.
        unit: erase every record of each decision about this customer, given by the pseudonym in
            `Record.unit`. Exactly one of `decision_id` and `unit` is given.
        model: erase only records of this model; None means all models.
        act: new id that all records of the act share.
    """

    act: str
    by: str
    reason: str
    decision_id: str | None = None
    unit: int | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class ErasureResult:
    """The result of an act.

    Args:
        records: number of records whose payload the act erased. `known` counts records that an
            earlier act erased.
        spilled: number of spilled records that the act is about; they are not in the log yet, and
            their payloads stay.
        is_done: no copy of the payloads is left in the log. False means that the next seal, or the
            same act again, continues.
        is_replicated: this log holds records from other logs, which keep the payloads for some
            time.
    """

    act: str
    decisions: int
    records: int
    models: tuple[str, ...]
    known: int
    spilled: int
    is_done: bool
    is_replicated: bool


class _WaitingDecision(NamedTuple):
    decision_id: str
    unit: int | None


def erase(
    log: SqliteDecisionLog, folder: Path, request: ErasureRequest, *, now_ms: int
) -> ErasureResult:
    """Put an erasure on record and carry it out.

    Args:
        folder: the log's folder.
        now_ms: wall time in epoch milliseconds.

    Raises:
        InputInvalid: neither a decision nor a unit is given, or both.
        Busy: another process has sealed for a minute without a break. If the act is not on record
            yet, nothing is done; else that process carries it out.
        Corrupt: the log is damaged.
    """
    _check(request)
    path = folder / tables.DATABASE
    # spills first: records that are moved into the log after this are found in the log
    waiting = _spilled(path, log.spills, request)
    with _locked(folder):
        found, known = _records_of(log, folder, request)
        if found:
            _record(log, folder, request, found, now_ms)
    with _locked(folder), Translation(path), closing(sqlite.connect(path)) as db:
        for _ in erasure.steps(db, folder):
            pass
        left = erasure.pending_erasures(db, folder)
        is_replicated = bool(tables.replicated_writers(db))
    return ErasureResult(
        request.act,
        len({row["decision_id"] for row in found}),
        len(found),
        tuple(sorted({row["model"] for row in found})),
        known,
        _about(waiting, found, request),
        left is None,
        is_replicated,
    )


def record_rows(
    log: SqliteDecisionLog,
    folder: Path,
    request: ErasureRequest,
    views: Mapping[str, Sequence[str]],
    *,
    unit: int,
    now_ms: int,
) -> None:
    """Put on record that rows of a unit are removed from views, before any row is removed.

    Args:
        views: model → names of its external views.

    Raises:
        Busy: another process has sealed for a minute without a break; nothing is on record.
    """
    event_ms = log.latest_event_ms() or now_ms
    entries = [
        erasure_record(
            request.act,
            model,
            Erasure(request.act, request.by, request.reason, {}, list(names)),
            event_ms=event_ms,
            recorded_ms=now_ms,
            unit=unit,
        )
        for model, names in sorted(views.items())
    ]
    with _locked(folder):
        writer = own_writer(folder, request.act)
        log.append(writer, entries)
        log.close_writer(writer)


@dataclass(frozen=True, slots=True)
class Preview:
    """The records that an act would be about now.

    Args:
        records: number of records whose payload the act would erase. `known` counts records that an
            earlier act erased.
        spilled: number of spilled records that it would be about; they are not in the log yet.
    """

    decisions: int
    records: int
    models: tuple[str, ...]
    known: int
    spilled: int


def preview(log: SqliteDecisionLog, folder: Path, request: ErasureRequest) -> Preview:
    """Counts of what `erase` would find; nothing is written.

    Raises:
        InputInvalid, Corrupt: for the same reasons as in `erase`.
    """
    _check(request)
    waiting = _spilled(folder / tables.DATABASE, log.spills, request)
    found, known = _records_of(log, folder, request)
    return Preview(
        len({row["decision_id"] for row in found}),
        len(found),
        tuple(sorted({row["model"] for row in found})),
        known,
        _about(waiting, found, request),
    )


def _check(request: ErasureRequest) -> None:
    if (request.decision_id is None) == (request.unit is None):
        raise InputInvalid("erasure", None, "wanted: a decision, or a unit")


def _about(
    waiting: Sequence[_WaitingDecision], found: Sequence[dict[str, Any]], request: ErasureRequest
) -> int:
    """How many of the records that wait in spills it is about."""
    ids = {request.decision_id, *(row["decision_id"] for row in found)}
    return sum(one.decision_id in ids or one.unit == request.unit is not None for one in waiting)


def _records_of(
    log: SqliteDecisionLog, folder: Path, request: ErasureRequest
) -> tuple[list[dict[str, Any]], int]:
    """The records that the act is about, and the number of those that an earlier act has named."""
    before = erasure.removal_records(folder)
    columns = ("writer", "seq", "decision_id", "kind", "model", "event_ms")
    try:
        rows = [r for query in _queries(log, request, columns) for r in log.read(query).to_pylist()]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Corrupt(f"a sealed file of {folder} cannot be read; {erasure.CHECK}") from error
    new = [row for row in rows if not before.covers(row["writer"], _place(row))]
    new.sort(key=lambda row: (row["decision_id"], row["writer"], row["seq"]))
    return new, len(rows) - len(new)


def _place(row: dict[str, Any]) -> AbsentPayload:
    return AbsentPayload(*(row[name] for name in AbsentPayload._fields))


def _queries(
    log: SqliteDecisionLog, request: ErasureRequest, columns: tuple[str, ...]
) -> Iterator[RecordQuery]:
    if request.unit is None:
        yield RecordQuery(request.model, _KINDS, decision_id=request.decision_id, columns=columns)
        return
    # labels and voids have no unit: they are found by the decisions that they are about
    of_unit = log.read(
        RecordQuery(request.model, _KINDS, unit=request.unit, columns=("decision_id",))
    )
    ids = sorted({str(one) for one in of_unit.column("decision_id").to_pylist()})
    for start in range(0, len(ids), _IDS):
        bite = tuple(ids[start : start + _IDS])
        yield RecordQuery(request.model, _KINDS, decision_ids=bite, columns=columns)


def _record(
    log: SqliteDecisionLog,
    folder: Path,
    request: ErasureRequest,
    found: Sequence[dict[str, Any]],
    now_ms: int,
) -> None:
    by_decision: dict[tuple[str, str], dict[str, list[int]]] = {}
    for row in found:
        records = by_decision.setdefault((row["decision_id"], row["model"]), {})
        records.setdefault(row["writer"], []).append(row["seq"])
    event_ms = log.latest_event_ms() or now_ms
    entries: list[Entry] = [
        erasure_record(
            decision_id,
            model,
            Erasure(request.act, request.by, request.reason, records),
            event_ms=event_ms,
            recorded_ms=now_ms,
        )
        for (decision_id, model), records in by_decision.items()
    ]
    writer = own_writer(folder, request.act)
    for start in range(0, len(entries), _ENTRIES):
        log.append(writer, entries[start : start + _ENTRIES])
    log.close_writer(writer)


def own_writer(folder: Path, act: str) -> str:
    """The name of this log's writer of erasures; a name made from the act if there is none yet."""
    path = folder / tables.DATABASE
    with Translation(path), closing(sqlite.connect(path)) as db:
        elsewhere = tables.replicated_writers(db)
        names = (w.writer for w in tables.writers(db) if w.writer.startswith(WRITERS))
        return next((name for name in names if name not in elsewhere), f"{WRITERS}{act[:16]}")


def _spilled(path: Path, spills: Path, request: ErasureRequest) -> list[_WaitingDecision]:
    with Translation(path), closing(sqlite.connect(path)) as db:
        return [
            _WaitingDecision(one.decision_id, one.unit)
            for one in spilled_records(db, spills)
            if request.model in (None, one.model)
        ]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the lock of seals, once the present seal has ended."""
    with ExitStack() as held:
        for tries_left in reversed(range(_TRIES)):
            try:
                held.enter_context(seal.lock(folder))
                break
            except Busy:
                if not tries_left:
                    raise
                time.sleep(_WAIT_S)
        yield
