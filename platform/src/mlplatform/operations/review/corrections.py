"""Corrections of labels that wait for a second person, kept in the file of the review queue.

Which correction waits follows from the records of its decision alone, so they are read again
whenever one of them is new.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from mlplatform.decisions.records.port import RecordQuery
from mlplatform.decisions.records.record import Kind
from mlplatform.operations.review.opinions import PendingCorrection, pending_correction
from mlplatform.operations.review.queue_file import ANSWER_WAITS_MS, opened
from mlplatform.operations.traffic.projection import LogReader
from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.storage import sqlite

KINDS: Final[tuple[Kind, ...]] = ("decision", "label", "void")
COLUMNS: Final = (
    *("writer", "seq", "kind", "decision_id", "model", "event_ms", "recorded_ms", "decision"),
    *("label", "payload"),
)
FEW: Final = 20
"""Most decisions that are read one by one, each by an index."""
MOST_IDS: Final = 10_000
"""Most decisions whose records are read at a time."""


def pending(path: Path, rows: int) -> tuple[tuple[PendingCorrection, ...], int]:
    """The corrections that wait for a second person, the oldest first, and their number.

    Args:
        path: the file of the review queue.

    Raises:
        Unavailable: the file can't be read now.
    """
    if not path.is_file():
        return (), 0
    query = "SELECT body FROM corrections ORDER BY asked_ms, decision_id LIMIT ?"
    with opened(path) as db:
        db.execute("BEGIN")
        found = db.execute(query, (rows,)).fetchall()
        (total,) = db.execute("SELECT count(*) FROM corrections").fetchone()
        made = tuple(msgspec.json.decode(body, type=PendingCorrection) for (body,) in found)
    return made, int(total)


def follow(path: Path, log: LogReader, model: str, decision_id: str) -> None:
    """Follow what was said of a label before the queue reads the log again.

    Raises:
        Unavailable: the file can't be written, or the log can't be read now.
    """
    if path.is_file():
        with opened(path, waits_ms=ANSWER_WAITS_MS) as db, sqlite.transaction(db):
            renew(db, log, model, [decision_id])


def touched(db: sqlite3.Connection, stated: Iterable[str], changed: Iterable[str]) -> set[str]:
    """The decisions whose correction new records may begin or end.

    Args:
        stated: decisions of new opinions.
        changed: decisions with a new label, void or erasure.
    """
    known = {one for (one,) in db.execute("SELECT decision_id FROM corrections")}
    return {*stated, *known.intersection(changed)}


def renew(db: sqlite3.Connection, log: LogReader, model: str, decision_ids: Iterable[str]) -> None:
    """Read these decisions from the log, and keep those of which a correction waits.

    Raises:
        Unavailable: the log can't be read now.
    """
    wanted = sorted(set(decision_ids))
    for start in range(0, len(wanted), MOST_IDS):
        part = wanted[start : start + MOST_IDS]
        records = _records(log, model, part)
        for one in part:
            _keep(db, one, pending_correction(one, model, records.get(one, ())))


def _keep(db: sqlite3.Connection, decision_id: str, found: PendingCorrection | None) -> None:
    db.execute("DELETE FROM corrections WHERE decision_id = ?", (decision_id,))
    if found is not None:
        row = (decision_id, found.event_ms, found.asked_ms, msgspec.json.encode(found).decode())
        db.execute("INSERT INTO corrections VALUES (?, ?, ?, ?)", row)


def _records(
    log: LogReader, model: str, decision_ids: list[str]
) -> Mapping[str, list[dict[str, Any]]]:
    """Decision → its records, with the payload parsed."""
    if len(decision_ids) <= FEW:
        queries = [
            RecordQuery(model=model, kinds=KINDS, decision_id=one, columns=COLUMNS)
            for one in decision_ids
        ]
    else:
        ids = tuple(decision_ids)
        queries = [RecordQuery(model=model, kinds=KINDS, decision_ids=ids, columns=COLUMNS)]
    found: dict[str, list[dict[str, Any]]] = {}
    for query in queries:
        for row in log.read(query).to_pylist():
            parsed = {**row, "payload": _parsed(row["payload"])}
            found.setdefault(row["decision_id"], []).append(parsed)
    return found


def _parsed(payload: str | bytes | None) -> Any:
    try:
        return msgspec.json.decode(payload or "null")
    except NOT_JSON:  # damaged: it says nothing, and `log verify` tells
        return None
