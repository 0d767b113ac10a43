"""Sums over the pairs of a shadow phase, and the pairs that can change a bound, both updated
whenever a pair changes.

A judgement reads these and no other pair. A change of pairs adds the difference of two portions:
the touched pairs after the change, less the same pairs before it.

These pairs can change a bound: positives, pairs whose outcome is hidden or was drawn, and the
highest scores of either arm, as many as people can look at. Every new pair can change which scores
are the highest. So some more of them are kept: all from a floor on. Where too few pairs are left
above the floor, it is lowered, and all pairs are read once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from mlplatform.rollouts.cache.pair import (
    COPY_RIGHT,
    RIGHT,
    Pairs,
    immature,
    is_drawn,
    labelled,
    outcome_seen,
    pairs_of,
)
from mlplatform.rollouts.verdicts.basis import OutcomeBasis
from mlplatform.rollouts.verdicts.clusters import KeyedCounts, changes, grouped
from mlplatform.rollouts.verdicts.facts import Flags, Integers
from mlplatform.rollouts.verdicts.statistics import cluster_sums

TABLES: Final = """
CREATE TABLE IF NOT EXISTS ages (step INTEGER PRIMARY KEY, pairs INTEGER NOT NULL,
    seen INTEGER NOT NULL, negative INTEGER NOT NULL, positive INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS delays (label INTEGER NOT NULL, steps INTEGER NOT NULL,
    pairs INTEGER NOT NULL, PRIMARY KEY (label, steps)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS units (unit INTEGER PRIMARY KEY, wrong INTEGER NOT NULL,
    pairs INTEGER NOT NULL, champion_wrong INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS telling (decision_id TEXT NOT NULL, writer TEXT NOT NULL,
    seq INTEGER NOT NULL, facts BLOB NOT NULL,
    PRIMARY KEY (decision_id, writer, seq)) STRICT, WITHOUT ROWID;
"""
HIGHEST: Final = ("score", "copy")
"""Names of the score columns: the champion's, then the challenger's."""
READ_AT_ONCE: Final = 20_000
FEW_TELLING: Final = 20_000
"""Most pairs that are all kept; with more, floors apply."""
MORE_SHARE, MORE_PAIRS = 0.25, 1_000
"""Highest scores kept beyond the number that people can look at: a share of that number, and a
count."""

Rows = Sequence[tuple[str, str, int, bytes]]
"""A pair's decision id, writer, number in that writer's log, and packed values."""


class PairSums(msgspec.Struct):
    """Sums that are stored beside the tables.

    Args:
        of_units: for a model of classes, the numbers of `ClusterSums` with one cluster for each
            customer.
        floors: score column of `HIGHEST` → score from which `telling` keeps a pair. A pair stays if
            one of its two scores reaches the floor, or if a column has no floor.
        telling: number of pairs in the table `telling`.
        choose_at: number of such pairs above which new floors are chosen.
    """

    of_units: list[int] = msgspec.field(default_factory=lambda: [0] * 15)
    floors: dict[str, float] = {}
    telling: int = 0
    choose_at: int = 0


def count(
    db: sqlite3.Connection, sums: PairSums, before: Pairs, now: Pairs, basis: OutcomeBasis
) -> None:
    """Update the sums and tables for pairs that have changed.

    Args:
        before, now: all pairs of the changed decisions, before and after the change.
    """
    ages = changes(_ages(now, basis), _ages(before, basis))
    db.executemany(
        "INSERT INTO ages VALUES (?, ?, ?, ?, ?) ON CONFLICT (step) DO UPDATE SET"
        " pairs = pairs + excluded.pairs, seen = seen + excluded.seen,"
        " negative = negative + excluded.negative, positive = positive + excluded.positive",
        np.column_stack((*ages.keys, ages.counts)).tolist(),
    )
    if basis.task == "classes":
        _count_units(db, sums, changes(_units(now), _units(before)))
    if basis.task != "binary":
        return
    delays = changes(_delays(now, basis), _delays(before, basis))
    db.executemany(
        "INSERT INTO delays VALUES (?, ?, ?) ON CONFLICT (label, steps) DO UPDATE SET"
        " pairs = pairs + excluded.pairs",
        np.column_stack((*delays.keys, delays.counts)).tolist(),
    )


def _ages(rows: Pairs, basis: OutcomeBasis) -> KeyedCounts:
    seen = outcome_seen(rows) if basis.task == "binary" else np.ones(len(rows), dtype=np.bool_)
    columns = (np.ones_like(seen), seen, seen & (rows["label"] == 0), seen & (rows["label"] == 1))
    return grouped([rows["event_ms"] // basis.step_ms], np.stack(columns, axis=1).astype(np.int64))


def _delays(rows: Pairs, basis: OutcomeBasis) -> KeyedCounts:
    known = rows[outcome_seen(rows) & labelled(rows)]
    steps = known["arrived_ms"] // basis.step_ms - known["event_ms"] // basis.step_ms
    keys = [known["label"].astype(np.int64), np.maximum(steps, 0)]
    return grouped(keys, np.ones((len(known), 1), dtype=np.int64))


def _units(rows: Pairs) -> KeyedCounts:
    known = rows[labelled(rows)]
    wrong = [(known["flags"] & right) == 0 for right in (COPY_RIGHT, RIGHT)]
    columns = (wrong[0], np.ones(len(known)), wrong[1])
    return grouped([known["unit"]], np.stack(columns, axis=1).astype(np.int64))


def _count_units(db: sqlite3.Connection, sums: PairSums, changed: KeyedCounts) -> None:
    (units,) = (key.tolist() for key in changed.keys)
    query = "SELECT wrong, pairs, champion_wrong FROM units WHERE unit = ?"
    found = [db.execute(query, (unit,)).fetchone() or (0, 0, 0) for unit in units]
    old = np.array(found, dtype=np.int64).reshape(-1, 3)
    new = old + changed.counts
    rows = [(unit, *counts) for unit, counts in zip(units, new.tolist(), strict=True)]
    db.executemany("INSERT OR REPLACE INTO units VALUES (?, ?, ?, ?)", rows)
    more = cluster_sums(new[:, (0, 1, 2, 1)]) - cluster_sums(old[:, (0, 1, 2, 1)])
    sums.of_units = (np.array(sums.of_units) + more).tolist()


def read_ages(db: sqlite3.Connection) -> Integers:
    """Counts of pairs by step of event time, ascending: the step, its pairs, those whose outcome
    may be known, and their labels of 0 and of 1."""
    rows = db.execute("SELECT * FROM ages WHERE pairs > 0 ORDER BY step").fetchall()
    return np.array(rows, dtype=np.int64).reshape(-1, 5)


def read_delays(db: sqlite3.Connection, label: int) -> Integers:
    """Delays of a label in steps, ascending, each with the number of pairs that have it."""
    query = "SELECT steps, pairs FROM delays WHERE label = ? AND pairs > 0 ORDER BY steps"
    return np.array(db.execute(query, (label,)).fetchall(), dtype=np.int64).reshape(-1, 2)


def forget(db: sqlite3.Connection, sums: PairSums, ids: Sequence[str], marks: str) -> None:
    """Delete the whole pairs that are stored for some decisions."""
    gone = db.execute(f"DELETE FROM telling WHERE decision_id IN ({marks})", ids)
    sums.telling -= gone.rowcount


def keep(db: sqlite3.Connection, sums: PairSums, rows: Rows) -> None:
    """Store those of these pairs whole that can change a bound."""
    tells = _tells(pairs_of(row[-1] for row in rows), sums.floors).tolist()
    kept = [row for row, is_telling in zip(rows, tells, strict=True) if is_telling]
    added = db.executemany("INSERT OR IGNORE INTO telling VALUES (?, ?, ?, ?)", kept)
    sums.telling += max(added.rowcount, 0)


def _tells(rows: Pairs, floors: Mapping[str, float]) -> Flags:
    found = ~outcome_seen(rows) | is_drawn(rows) | (rows["label"] == 1)
    for name in HIGHEST:
        found |= rows[name] >= floors.get(name, -np.inf)
    return np.asarray(found)


def drop_lowest(db: sqlite3.Connection, sums: PairSums, basis: OutcomeBasis) -> None:
    """Raise the floors, if many pairs have come since the floors were last raised."""
    if sums.telling <= max(sums.choose_at, FEW_TELLING):
        return
    (pairs,) = db.execute("SELECT coalesce(sum(pairs), 0) FROM ages").fetchone()
    read = (pairs_of(row[-1] for row in rows) for rows in _portions(db, "telling"))
    raised = _floors(read, _most(round(basis.capacity * pairs)))
    for name, floor in raised.items():
        sums.floors[name] = max(floor, sums.floors.get(name, -np.inf))
    for rows in _portions(db, "telling"):
        tells = _tells(pairs_of(row[-1] for row in rows), sums.floors).tolist()
        gone = [row[:-1] for row, is_telling in zip(rows, tells, strict=True) if not is_telling]
        query = "DELETE FROM telling WHERE decision_id = ? AND writer = ? AND seq = ?"
        db.executemany(query, gone)
        sums.telling -= len(gone)
    sums.choose_at = 2 * sums.telling


def read_telling(db: sqlite3.Connection, sums: PairSums, basis: OutcomeBasis, alerts: int) -> Pairs:
    """At least all pairs that can change a bound where `alerts` requests may be alerts."""
    rows = _read_telling(db)
    mature = rows[~immature(rows, basis)]
    if all((mature[name] >= floor).sum() >= alerts for name, floor in sums.floors.items()):
        return rows
    _lower_floors(db, sums, basis, alerts)
    return _read_telling(db)


def _read_telling(db: sqlite3.Connection) -> Pairs:
    return pairs_of(data for (data,) in db.execute("SELECT facts FROM telling"))


def _lower_floors(db: sqlite3.Connection, sums: PairSums, basis: OutcomeBasis, alerts: int) -> None:
    """Lower the floors until at least as many mature pairs lie above them as there may be alerts.
    Reads all pairs."""
    mature = (
        rows[~immature(rows, basis)]
        for rows in (pairs_of(row[-1] for row in rows) for rows in _portions(db, "pairs"))
    )
    sums.floors = _floors(mature, _most(alerts))
    for rows in _portions(db, "pairs"):
        keep(db, sums, rows)


def _most(alerts: int) -> int:
    return alerts + round(MORE_SHARE * alerts) + MORE_PAIRS


def _floors(portions: Iterable[Pairs], most: int) -> dict[str, float]:
    """The lowest of the `most` highest scores of each arm; an arm with fewer scores has no
    floor."""
    highest = {name: np.zeros(0) for name in HIGHEST}
    for rows in portions:
        for name in HIGHEST:
            both = np.concatenate((highest[name], rows[name]))
            highest[name] = np.partition(both, -most)[-most:] if len(both) > most else both
    return {name: float(found.min()) for name, found in highest.items() if len(found) == most}


def _portions(db: sqlite3.Connection, table: str) -> Iterator[list[tuple[Any, ...]]]:
    """All rows of a table in portions; the table may change between two portions."""
    last = ("", "", -1)
    query = (
        f"SELECT decision_id, writer, seq, facts FROM {table}"
        " WHERE (decision_id, writer, seq) > (?, ?, ?)"
        " ORDER BY decision_id, writer, seq LIMIT ?"
    )
    while rows := db.execute(query, (*last, READ_AT_ONCE)).fetchall():
        yield rows
        last = rows[-1][:3]
