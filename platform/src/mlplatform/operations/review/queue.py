"""The queue of one model's decisions that wait for review, in a file that new records of the log
advance.

The file holds the position in the log that it stands for, and follows from the log: it may be
deleted, and is made again. Records come in any order and in any portions: what ends a decision's
wait may be read before the decision. A portion is one transaction. What the log erases goes here
too, and no free page keeps it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.decisions.records.erasures import Erasure
from mlplatform.decisions.records.port import RecordQuery
from mlplatform.decisions.records.record import Kind
from mlplatform.model.definition import ModelDefinition
from mlplatform.operations.review import corrections
from mlplatform.operations.review.opinions import Account, Opinion, opinion
from mlplatform.operations.review.queue_file import ANSWER_WAITS_MS, opened
from mlplatform.operations.review.selection import EVERYTHING, Selection
from mlplatform.operations.traffic.projection import LogReader, read_positions
from mlplatform.rollouts.cache.portions import up_to
from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.storage import sqlite
from mlplatform.runtime.units import DAY_MS

KINDS: Final[tuple[Kind, ...]] = ("decision", "label", "void", "erasure")
COLUMNS: Final = (
    *("writer", "seq", "kind", "decision_id", "event_ms", "version", "score", "decision", "label"),
)
PORTION: Final = 50_000
"""Most records of each writer in one transaction."""
MOST_IDS: Final = 10_000
"""Most decisions whose payloads are read at a time: payloads are by far the largest part of a
record."""
BUDGET_S: Final = 10.0
"""Seconds after which an advance stops; the next one continues."""
EARLY_MS: Final = DAY_MS
"""Event time for which the queue remembers a label whose decision it has not read yet, as that may
be spilled. A decision that arrives later still is shown, and a label for it is refused."""
MOST_TEXT: Final = 200
REVISION: Final = 2
"""Of what is kept: a file of an earlier one is made again. Since 2 it keeps corrections."""
_ENDS: Final = ["decision_id", "event_ms"]
MOST_CODED: Final = 4_000
"""Oldest decisions of the queue whose reasons are offered for a filter."""
MOST_CODES: Final = 200
_CODES: Final = (
    "SELECT DISTINCT r.value FROM (SELECT shown FROM waiting ORDER BY event_ms, decision_id"
    " LIMIT ?) w, json_each(w.shown, '$.reasons') r ORDER BY r.value LIMIT ?"
)
_ROW: Final = "decision_id, event_ms, decision, score, version, shown"


class QueuePolicy(msgspec.Struct, frozen=True):
    """Rules of the queue from the present model.yaml: which decisions wait, and what is shown of
    them."""

    outcomes: tuple[str, ...]
    shows: tuple[str, ...]
    days: int
    revision: int = REVISION

    @classmethod
    def of(cls, definition: ModelDefinition) -> QueuePolicy:
        review = definition.label.review
        return cls(review.reviewed(definition.decision), review.shows, review.days)


class DecisionSummary(msgspec.Struct, frozen=True):
    """Details of a decision that an analyst sees besides its score.

    Args:
        reasons: codes of the reasons that raised the score most.
        fields: name and value of the request fields that model.yaml allows to show.
    """

    reasons: tuple[str, ...] = ()
    fields: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class QueuedDecision:
    """A decision that waits for review.

    Args:
        opinions: opinions of analysts, oldest first; none of them is its label yet.
    """

    decision_id: str
    event_ms: int
    decision: str
    score: float | None
    version: int | None
    shown: DecisionSummary
    opinions: tuple[Opinion, ...]


@dataclass(frozen=True, slots=True)
class QueueCursor:
    """The last decision of a page of the queue; the next page begins after it.

    Args:
        key: the number by which the page is in order (`Selection.key`); event time of the oldest
            first.
    """

    key: float
    decision_id: str


@dataclass(frozen=True, slots=True)
class Queue:
    """A page of the queue, oldest decision first unless another order was asked for.

    Args:
        newer: where the next page begins; None if this is the last page.
        total: number of decisions that wait.
        selected: number of those that were asked for, on all pages.
        codes: codes of reasons that decisions of the queue have, of the oldest `MOST_CODED`.
        complete: whether all records of the log had been read.
        position: writer → number of the last record of the log that was read.
    """

    rows: tuple[QueuedDecision, ...]
    newer: QueueCursor | None = None
    total: int = 0
    complete: bool = True
    position: Mapping[str, int] = field(default_factory=dict)
    selected: int = 0
    codes: tuple[str, ...] = ()


def advance(
    path: Path,
    log: LogReader,
    definition: ModelDefinition,
    *,
    portion: int = PORTION,
    budget_s: float = BUDGET_S,
) -> bool:
    """Read new records of the log; returns whether all were read.

    Raises:
        Unavailable: the log or the file can't be read or written now.
    """
    give_up_s, wanted = time.monotonic() + budget_s, QueuePolicy.of(definition)
    reached_ms = (mark.event_ms for mark in log.watermarks())
    newest_ms = max((ms for ms in reached_ms if ms is not None), default=0)
    from_ms = max(0, newest_ms - wanted.days * DAY_MS)
    with opened(path, renews=True) as db:
        _begin(db, log, wanted)
        while _add(db, log, definition.name, wanted, from_ms, portion):
            if time.monotonic() > give_up_s:
                return False
        with sqlite.transaction(db):
            db.execute("UPDATE stands_for SET complete = 1")
            db.execute("DELETE FROM waiting WHERE event_ms < ?", (from_ms,))
            db.execute("DELETE FROM said WHERE event_ms < ?", (from_ms,))
            db.execute("DELETE FROM corrections WHERE event_ms < ?", (from_ms,))
            db.execute("DELETE FROM ended WHERE event_ms < ?", (newest_ms - EARLY_MS,))
    return True


def page(
    path: Path, rows: int, after: QueueCursor | None = None, wanted: Selection = EVERYTHING
) -> Queue:
    """A page of the queue; empty if nothing of the log was read yet.

    Args:
        wanted: the decisions that are asked for, and their order.

    Raises:
        Unavailable: the file can't be read now.
    """
    if not path.is_file():
        return Queue((), complete=False)
    condition, values = wanted.condition()
    key, of_key = wanted.key()
    query = f"SELECT {_ROW}, {key} FROM waiting WHERE {condition}"
    asked: list[Any] = [*of_key, *values]
    if after is not None:
        query += f" AND ({key}, decision_id) > (?, ?)"
        asked += [*of_key, after.key, after.decision_id]
    query += f" ORDER BY {key}, decision_id LIMIT ?"
    asked += [*of_key, rows + 1]
    with opened(path) as db:
        db.execute("BEGIN")
        found = db.execute(query, asked).fetchall()
        (total,) = db.execute("SELECT count(*) FROM waiting").fetchone()
        selected = total
        if wanted.is_narrow:
            counted = f"SELECT count(*) FROM waiting WHERE {condition}"
            (selected,) = db.execute(counted, values).fetchone()
        codes = tuple(str(code) for (code,) in db.execute(_CODES, (MOST_CODED, MOST_CODES)))
        (complete,) = db.execute("SELECT complete FROM stands_for").fetchone() or (0,)
        made, position = tuple(_waiting(db, row[:-1]) for row in found[:rows]), _position(db)
    newer = QueueCursor(found[rows - 1][-1], made[-1].decision_id) if len(found) > rows else None
    return Queue(made, newer, total, bool(complete), position, selected, codes)


def find(path: Path, decision_id: str) -> QueuedDecision | None:
    """One decision of the queue; None if it does not wait.

    Raises:
        Unavailable: the file can't be read now.
    """
    if not path.is_file():
        return None
    with opened(path) as db:
        query = f"SELECT {_ROW} FROM waiting WHERE decision_id = ?"
        row = db.execute(query, (decision_id,)).fetchone()
        return None if row is None else _waiting(db, row)


def first(
    path: Path, analyst: str, account: Account | None = None, wanted: Selection = EVERYTHING
) -> QueuedDecision | None:
    """The first decision on which this person has stated no opinion; None if there is none.

    Args:
        account: the analyst's account at an identity provider; None if a key proved the analyst.

    Raises:
        Unavailable: the file can't be read now.
    """
    if not path.is_file():
        return None
    condition, values = wanted.condition()
    key, of_key = wanted.key()
    query = (
        f"SELECT {_ROW} FROM waiting WHERE {condition} AND NOT EXISTS (SELECT 1 FROM said WHERE"
        " said.decision_id = waiting.decision_id AND (json_extract(said.body, '$.analyst') = ?"
        " OR (json_extract(said.body, '$.account.issuer') = ?"
        " AND json_extract(said.body, '$.account.subject') = ?)))"
        f" ORDER BY {key}, decision_id LIMIT 1"
    )
    with opened(path) as db:
        who = (None, None) if account is None else (account.issuer, account.subject)
        row = db.execute(query, (*values, analyst, *who, *of_key)).fetchone()
        return None if row is None else _waiting(db, row)


def end(path: Path, decision_id: str, event_ms: int) -> None:
    """Remove a decision from the queue before the log is read again.

    Raises:
        Unavailable: the file can't be written now.
    """
    if path.is_file():
        with opened(path, waits_ms=ANSWER_WAITS_MS) as db, sqlite.transaction(db):
            _end(db, [(decision_id, event_ms)])


def add_opinion(
    path: Path, place: tuple[str, int], decision_id: str, event_ms: int, now: Opinion
) -> None:
    """Store an opinion on a decision before the log is read again.

    Args:
        place: writer and number of the decision's record.

    Raises:
        Unavailable: the file can't be written now.
    """
    if path.is_file():
        with opened(path, waits_ms=ANSWER_WAITS_MS) as db, sqlite.transaction(db):
            _store_opinions(db, [(*place, decision_id, event_ms, now)])


def _begin(db: sqlite3.Connection, log: LogReader, wanted: QueuePolicy) -> None:
    """Start from the log's beginning if the log was restored or the policy changed."""
    declaration = msgspec.json.encode(wanted).decode()
    with sqlite.transaction(db):
        row, marks = db.execute("SELECT declaration FROM stands_for").fetchone(), _marks(log)
        is_ahead = any(marks.get(writer, 0) < seq for writer, seq in _position(db).items())
        if is_ahead or (row is not None and row[0] != declaration):
            for table in ("waiting", "ended", "said", "corrections", "position"):
                db.execute(f"DELETE FROM {table}")
            row = None
        if row is None:
            db.execute("INSERT OR REPLACE INTO stands_for VALUES (1, ?, 0)", (declaration,))


def _add(
    db: sqlite3.Connection,
    log: LogReader,
    model: str,
    wanted: QueuePolicy,
    from_ms: int,
    portion: int,
) -> bool:
    """Read a portion of the log; returns whether there may be more."""
    with sqlite.transaction(db):
        # Marks read before this transaction could be behind the records that another process has
        # added.
        position, marks = _position(db), _marks(log)
        if position == marks:
            return False
        table = log.read(
            RecordQuery(
                model=model, kinds=KINDS, after=position, from_ms=from_ms, limit=portion,
                columns=COLUMNS,
            )
        )  # fmt: skip
        come_to, is_full = read_positions(table, marks, portion)
        table = up_to(table, come_to)
        _write(db, table, wanted, _payloads_of(log, model, table, wanted))
        stated = map(str, _opinion_rows(table)["decision_id"].to_pylist())
        others = table.filter(pc.field("kind") != "decision")
        changed = map(str, others["decision_id"].to_pylist())
        corrections.renew(db, log, model, corrections.touched(db, stated, changed))
        db.executemany("INSERT OR REPLACE INTO position VALUES (?, ?)", come_to.items())
        return is_full


def _decision_rows(table: pa.Table, wanted: QueuePolicy) -> pa.Table:
    reviewed = pc.field("decision").isin(pa.array(wanted.outcomes, pa.string()))
    return table.filter((pc.field("kind") == "decision") & reviewed)


def _opinion_rows(table: pa.Table) -> pa.Table:
    """Labels without a value: opinions of one of two people."""
    return table.filter((pc.field("kind") == "label") & pc.field("label").is_null())


def _of_erasures(table: pa.Table) -> pa.Table:
    return table.filter(pc.field("kind") == "erasure")


def _payloads_of(
    log: LogReader, model: str, table: pa.Table, wanted: QueuePolicy
) -> Mapping[tuple[str, int], Mapping[str, Any]]:
    """Writer and number → payload of at least the records whose payload is needed."""
    read = [_decision_rows(table, wanted), _opinion_rows(table), _of_erasures(table)]
    needed = pa.concat_tables(read).select(_ENDS)
    rows = sorted(needed.to_pylist(), key=lambda row: row["event_ms"])
    found: dict[tuple[str, int], Mapping[str, Any]] = {}
    for start in range(0, len(rows), MOST_IDS):
        part = rows[start : start + MOST_IDS]
        query = RecordQuery(
            model=model,
            kinds=("decision", "label", "erasure"),
            from_ms=part[0]["event_ms"],
            to_ms=part[-1]["event_ms"] + 1,
            decision_ids=tuple({row["decision_id"] for row in part}),
            columns=("writer", "seq", "payload"),
        )
        for row in log.read(query).to_pylist():
            found[row["writer"], row["seq"]] = _payload(row)
    return found


def _write(
    db: sqlite3.Connection,
    table: pa.Table,
    wanted: QueuePolicy,
    payloads: Mapping[tuple[str, int], Mapping[str, Any]],
) -> None:
    rows = [
        _row(one, payloads.get((one["writer"], one["seq"]), {}), wanted.shows)
        for one in _decision_rows(table, wanted).to_pylist()
    ]
    insert = f"INSERT OR IGNORE INTO waiting ({_ROW}) SELECT ?, ?, ?, ?, ?, ?"
    unless = " WHERE NOT EXISTS (SELECT 1 FROM ended WHERE decision_id = ?)"
    db.executemany(insert + unless, [(*row, row[0]) for row in rows])
    kind, label = pc.field("kind"), pc.field("label")
    ends = table.filter((kind == "void") | ((kind == "label") & label.is_valid()))
    _end(db, [(one["decision_id"], one["event_ms"]) for one in ends.select(_ENDS).to_pylist()])
    _store_opinions(db, _opinions(_opinion_rows(table).to_pylist(), payloads))
    for one in _of_erasures(table).to_pylist():
        _erase(db, one["decision_id"], payloads.get((one["writer"], one["seq"]), {}))


def _row(one: Mapping[str, Any], held: Mapping[str, Any], shows: Sequence[str]) -> tuple[Any, ...]:
    request = held.get("request")
    fields = request if isinstance(request, Mapping) else {}
    shown = DecisionSummary(
        tuple(str(code)[:MOST_TEXT] for code in held.get("reasons") or ()),
        tuple((name, _short(fields[name])) for name in shows if name in fields),
    )
    text = msgspec.json.encode(shown).decode()
    place = (one["decision_id"], one["event_ms"], one["decision"])
    return (*place, one["score"], one["version"], text)


def _short(value: Any) -> Any:
    return value[:MOST_TEXT] if isinstance(value, str) else value


def _opinions(
    rows: Iterable[Mapping[str, Any]],
    payloads: Mapping[tuple[str, int], Mapping[str, Any]],
) -> list[tuple[str, int, str, int, Opinion]]:
    found = []
    for row in rows:
        found_opinion = opinion(payloads.get((row["writer"], row["seq"]), {}))
        if found_opinion is not None:
            place = (row["writer"], row["seq"], row["decision_id"], row["event_ms"])
            found.append((*place, found_opinion))
    return found


def _payload(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A record's payload; empty if it was erased or is no JSON object."""
    try:
        found = msgspec.json.decode(row["payload"] or "null")
    except NOT_JSON:
        return {}
    return found if isinstance(found, Mapping) else {}


def _end(db: sqlite3.Connection, ended: Sequence[tuple[str, int]]) -> None:
    db.executemany("INSERT OR REPLACE INTO ended VALUES (?, ?)", ended)
    ids = [(decision_id,) for decision_id, _ in ended]
    db.executemany("DELETE FROM waiting WHERE decision_id = ?", ids)
    db.executemany("DELETE FROM said WHERE decision_id = ?", ids)


def _erase(db: sqlite3.Connection, decision_id: str, held: Mapping[str, Any]) -> None:
    """Remove what the queue shows of a decision, and the opinions whose records an erasure names;
    unnamed ones came after it."""
    text = msgspec.json.encode(DecisionSummary()).decode()
    db.execute("UPDATE waiting SET shown = ? WHERE decision_id = ?", (text, decision_id))
    try:
        records = msgspec.convert(held, Erasure).records
    except msgspec.ValidationError:  # it is not known which: an answer reads the log anyway
        db.execute("DELETE FROM said WHERE decision_id = ?", (decision_id,))
        return
    gone = [(writer, seq) for writer, numbers in records.items() for seq in numbers]
    db.executemany("DELETE FROM said WHERE writer = ? AND seq = ?", gone)


def _store_opinions(
    db: sqlite3.Connection, opinions: Sequence[tuple[str, int, str, int, Opinion]]
) -> None:
    db.executemany(
        "INSERT OR IGNORE INTO said SELECT ?, ?, ?, ?, ?"
        " WHERE NOT EXISTS (SELECT 1 FROM ended WHERE decision_id = ?)",
        [
            (writer, seq, of, event_ms, msgspec.json.encode(one).decode(), of)
            for writer, seq, of, event_ms, one in opinions
        ],
    )


def _waiting(db: sqlite3.Connection, row: Sequence[Any]) -> QueuedDecision:
    query = "SELECT body FROM said WHERE decision_id = ? ORDER BY event_ms, seq"
    rows = db.execute(query, (row[0],)).fetchall()
    decision_id, event_ms, decision, score, version, shown = row
    opinions = tuple(msgspec.json.decode(body, type=Opinion) for (body,) in rows)
    read = msgspec.json.decode(shown, type=DecisionSummary)
    return QueuedDecision(decision_id, event_ms, decision, score, version, read, opinions)


def _marks(log: LogReader) -> dict[str, int]:
    return {mark.writer: mark.seq for mark in log.watermarks()}


def _position(db: sqlite3.Connection) -> dict[str, int]:
    return dict(db.execute("SELECT writer, seq FROM position"))
