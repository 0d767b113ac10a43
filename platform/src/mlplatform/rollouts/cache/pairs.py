"""How records and labels change the stored pairs of a shadow phase and their last labels.

A pair is a champion's decision that a shadow copy followed. Records, labels and voids are stored in
the order in which they come; the pairs of the decisions that they touch are then computed again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.decisions.records.draws import logged_draws
from mlplatform.decisions.records.record import LABEL_VALUES
from mlplatform.rollouts.cache import pair_counts
from mlplatform.rollouts.cache.pair import (
    COPY_RIGHT,
    HIDES,
    NO_LABEL,
    PACKED,
    RIGHT,
    Pairs,
    pairs_of,
)
from mlplatform.rollouts.cache.pair_counts import PairSums
from mlplatform.rollouts.verdicts.basis import OutcomeBasis
from mlplatform.rollouts.verdicts.facts import columns_of, scored_flags

TABLES: Final = (
    """
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (decision_id TEXT NOT NULL, writer TEXT NOT NULL,
    seq INTEGER NOT NULL, is_copy INTEGER NOT NULL, event_ms INTEGER NOT NULL,
    unit INTEGER NOT NULL, score REAL NOT NULL, decision TEXT, chance REAL,
    PRIMARY KEY (decision_id, writer, seq)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS labels (decision_id TEXT NOT NULL, writer TEXT NOT NULL,
    seq INTEGER NOT NULL, event_ms INTEGER NOT NULL, recorded_ms INTEGER, value ANY NOT NULL,
    PRIMARY KEY (decision_id, writer, seq)) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS arrived ON labels (event_ms);
CREATE TABLE IF NOT EXISTS voids (decision_id TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pairs (decision_id TEXT NOT NULL, writer TEXT NOT NULL,
    seq INTEGER NOT NULL, facts BLOB NOT NULL,
    PRIMARY KEY (decision_id, writer, seq)) STRICT, WITHOUT ROWID;
"""
    + pair_counts.TABLES
)
_AT_ONCE: Final = 500
"""The number of decisions that one query asks for."""


class State(msgspec.Struct):
    """State that is stored beside the tables.

    Args:
        position: writer → number up to which its records and voids are in the tables.
        labels: writer → number up to which its labels are in the tables.
        first_ms: earliest event time of a record; only labels from then on are read. None before
            the first record.
        now_ms: event time up to which the pairs have their labels.
        sums: sums over the pairs.
    """

    position: dict[str, int] = {}
    labels: dict[str, int] = {}
    first_ms: int | None = None
    now_ms: int = -1
    writers: list[str] = []
    sums: PairSums = msgspec.field(default_factory=PairSums)


def load(db: sqlite3.Connection) -> State:
    """The stored state; a new one where there is none yet."""
    row = db.execute("SELECT value FROM state").fetchone()
    return State() if row is None else msgspec.json.decode(row[0], type=State)


def save(db: sqlite3.Connection, state: State) -> None:
    """Store the state."""
    db.execute("INSERT OR REPLACE INTO state VALUES ('state', ?)", (msgspec.json.encode(state),))


def add_records(
    db: sqlite3.Connection, state: State, found: pa.Table, voided: set[str], basis: OutcomeBasis
) -> None:
    """Store records of the shadow phase and voids, and compute the pairs that they touch again.

    Args:
        found: table with the columns of `facts`; the payload too if the model explores.
    """
    columns = columns_of(found)
    kind, score = columns["kind"], columns["score"]
    copied = (kind == "shadow") & (columns["version"] == basis.version) & np.isfinite(score)
    decided = (kind == "decision") & (columns["arm"] == "champion")
    decided &= columns["has_unit"] & scored_flags(columns)
    draws = {}
    if basis.explores:
        draws = logged_draws(found.filter(pa.array(kind == "decision")))
    kept = np.flatnonzero(copied | decided)
    names = ("decision_id", "writer", "seq", "event_ms", "unit", "score", "decision")
    values = (columns[name][kept].tolist() for name in names)
    rows = [
        (i, writer, seq, is_copy, event_ms, unit, value, decision,
         draws[i].propensity if i in draws and not is_copy else None)
        for is_copy, i, writer, seq, event_ms, unit, value, decision in zip(
            copied[kept].tolist(), *values, strict=True
        )
    ]  # fmt: skip
    db.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    db.executemany("INSERT OR IGNORE INTO voids VALUES (?)", [(i,) for i in voided])
    state.writers += sorted({row[1] for row in rows} - set(state.writers))
    if len(found):
        first_ms = int(columns["event_ms"].min())
        if state.first_ms is None or first_ms < state.first_ms:
            state.first_ms, state.labels = first_ms, {}  # earlier labels count too
            db.execute("DELETE FROM labels")
    _make_pairs(db, state, {*(row[0] for row in rows), *voided}, basis)


def add_labels(db: sqlite3.Connection, state: State, found: pa.Table, basis: OutcomeBasis) -> None:
    """Store labels, also those whose decisions are not stored yet."""
    value = LABEL_VALUES[basis.task]
    known = found.filter(pc.is_valid(found[value]))
    names = ("decision_id", "writer", "seq", "event_ms", "recorded_ms", value)
    rows = list(zip(*(known[name].to_pylist() for name in names), strict=True))
    db.executemany("INSERT INTO labels VALUES (?, ?, ?, ?, ?, ?)", rows)
    _make_pairs(db, state, {row[0] for row in rows}, basis)


def pass_time(db: sqlite3.Connection, state: State, basis: OutcomeBasis) -> None:
    """Count the labels that have arrived by now."""
    query = "SELECT DISTINCT decision_id FROM labels WHERE event_ms > ? AND event_ms <= ?"
    due = {i for (i,) in db.execute(query, (state.now_ms, basis.now_event_ms))}
    state.now_ms = basis.now_event_ms
    _make_pairs(db, state, due, basis)


def is_labelled_after(db: sqlite3.Connection, after_ms: int, until_ms: int) -> bool:
    """Whether any label arrived between these two event times."""
    query = "SELECT 1 FROM labels WHERE event_ms > ? AND event_ms <= ? LIMIT 1"
    return db.execute(query, (after_ms, until_ms)).fetchone() is not None


def read_pairs(db: sqlite3.Connection) -> Iterator[Pairs]:
    """All pairs, in portions."""
    cursor = db.execute("SELECT facts FROM pairs")
    while rows := cursor.fetchmany(pair_counts.READ_AT_ONCE):
        yield pairs_of(data for (data,) in rows)


def _make_pairs(
    db: sqlite3.Connection, state: State, touched: Iterable[str], basis: OutcomeBasis
) -> None:
    places = {writer: place for place, writer in enumerate(state.writers)}
    all_ids, before, now = sorted(touched), list[bytes](), list[bytes]()
    for start in range(0, len(all_ids), _AT_ONCE):
        ids = tuple(all_ids[start : start + _AT_ONCE])
        marks = ",".join("?" * len(ids))
        query = f"DELETE FROM pairs WHERE decision_id IN ({marks}) RETURNING facts"
        before += [data for (data,) in db.execute(query, ids)]
        pair_counts.forget(db, state.sums, ids, marks)
        query = f"SELECT decision_id FROM voids WHERE decision_id IN ({marks})"
        voided = {i for (i,) in db.execute(query, ids)}
        query = (
            "SELECT is_copy, decision_id, writer, seq, event_ms, unit, score, decision, chance"
            f" FROM records WHERE decision_id IN ({marks}) ORDER BY event_ms, writer, seq"
        )
        records = [row for row in db.execute(query, ids) if row[1] not in voided]
        copies = {row[1]: (row[6], row[7]) for row in records if row[0]}
        decided = [row[1:] for row in records if not row[0] and row[1] in copies]
        chances = {row[0]: row[7] for row in decided if row[7] is not None}
        labels = _last_labels(db, ids, marks, basis)
        rows = []
        for i, writer, seq, event_ms, unit, score, decision, _ in decided:
            copy, copy_decision = copies[i]
            arrived_ms, value = labels.get(i, (0, None))
            flags, label, truth = HIDES * (decision in basis.hides), NO_LABEL, 0.0
            if value is not None:
                label = value if basis.task == "binary" else 0
                truth = value if basis.task == "real" else 0.0
                flags |= RIGHT * (decision == value) | COPY_RIGHT * (copy_decision == value)
            facts = (event_ms, seq, unit, arrived_ms, score, copy, chances.get(i, 0.0), truth,
                     places[writer], label, flags)  # fmt: skip
            rows.append((i, writer, seq, PACKED.pack(*facts)))
        db.executemany("INSERT INTO pairs VALUES (?, ?, ?, ?)", rows)
        now += [row[-1] for row in rows]
        if basis.task == "binary":
            pair_counts.keep(db, state.sums, rows)
    pair_counts.count(db, state.sums, pairs_of(before), pairs_of(now), basis)
    pair_counts.drop_lowest(db, state.sums, basis)


def _last_labels(
    db: sqlite3.Connection, ids: tuple[str, ...], marks: str, basis: OutcomeBasis
) -> dict[str, tuple[int, Any]]:
    """Arrival time and value of each decision's last label, by the order `last_labels.RANK`."""
    query = (
        f"SELECT decision_id, event_ms, value FROM labels WHERE decision_id IN ({marks})"
        " AND event_ms <= ? ORDER BY event_ms, recorded_ms, seq, value"
    )
    rows = db.execute(query, (*ids, basis.now_event_ms))
    return {i: (event_ms, value) for i, event_ms, value in rows}
