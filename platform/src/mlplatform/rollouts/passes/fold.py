"""How records change what is kept of a generation in SQLite.

Records are kept by decision, so that a copy finds its decision whenever it comes, and a void takes
back what its decision has added. What a change adds to clusters is the difference of two portions:
the decisions that it touches as they were, and as they are. Sums over clusters change by what the
touched clusters add now, less what they added before.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sqlite3
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from mlplatform.rollouts.verdicts.aggregates import (
    TOTALS,
    Aggregates,
    Calls,
    Extent,
    Portion,
    calls_changed,
    outages,
    portion,
)
from mlplatform.rollouts.verdicts.clusters import Grouped, changes, grouped
from mlplatform.rollouts.verdicts.facts import COPY, ROW, Facts, Integers, Subject
from mlplatform.rollouts.verdicts.facts import together as joined
from mlplatform.rollouts.verdicts.latencies import BINS, Latencies, LatencySums, latency_sums
from mlplatform.rollouts.verdicts.traffic import calls, traffic

TABLES: Final = """
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (decision_id TEXT NOT NULL, writer TEXT NOT NULL,
    seq INTEGER NOT NULL, recorded_ms INTEGER, latency_us INTEGER, facts BLOB NOT NULL,
    PRIMARY KEY (decision_id, writer, seq)) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS calls ON records (writer, recorded_ms, latency_us)
    WHERE recorded_ms IS NOT NULL;
CREATE TABLE IF NOT EXISTS waiting (event_ms INTEGER NOT NULL, writer TEXT NOT NULL,
    seq INTEGER NOT NULL, decision_id TEXT NOT NULL, facts BLOB NOT NULL,
    PRIMARY KEY (event_ms, writer, seq)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS voids (decision_id TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS clusters (view INTEGER NOT NULL, a INTEGER NOT NULL,
    b INTEGER NOT NULL, counts BLOB NOT NULL, PRIMARY KEY (view, a, b)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS windows (number INTEGER PRIMARY KEY, decided INTEGER NOT NULL,
    uncopied INTEGER NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS busiest ON windows (decided);
"""
"""`recorded_ms` and `latency_us` are those of copies that were sent: the call that they share."""

VIEWS: Final = {"customers": 0, "days": 1, "moments": 2}
OUTAGES, PACES, ANSWERS = 3, 4, (5, 6)
"""Clusters of stretches of wall time: failures, and latencies by arm and bin; and latencies of
customers' days, for either arm."""
_WIDTHS: Final = {"customers": 14, "days": 4, "moments": 6}
_BINS: Final = np.dtype([("bin", "<u2"), ("answers", "<u4")])
_COUNT: Final = np.dtype("<i4")


def _no_latencies() -> LatencySums:
    return LatencySums(*(np.zeros((2, n), dtype=np.int64) for n in (BINS, BINS, 2)))


@dataclass(slots=True)
class State:
    """What is kept beside the tables.

    Args:
        line_ms: event time up to which records are counted for good.
        bits: of the stretches of wall time in the tables (`Extent.outage_bits`).
        uncopied: decisions without a copy, those included whose copies may be on their way.
    """

    position: dict[str, int] = field(default_factory=dict)
    line_ms: int = 0
    extent: Extent = field(default_factory=Extent)
    bits: int = 0
    totals: dict[str, Integers] = field(default_factory=dict)
    calls: Calls = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    uncopied: int = 0
    latencies: LatencySums = field(default_factory=_no_latencies)


def load(db: sqlite3.Connection) -> State:
    """The state, new where there is none yet."""
    rows = dict(db.execute("SELECT name, value FROM state"))
    if not rows:
        nothing = {name: sums(np.zeros((0, _WIDTHS[name]), np.int64)) for name, sums in
                   TOTALS.items()}  # fmt: skip
        return State(totals={**nothing, "counts": np.zeros(15, dtype=np.int64)})
    found = json.loads(rows["state"])
    extent = found["extent"]
    extent["ranges"] = {writer: tuple(pair) for writer, pair in extent["ranges"].items()}
    return State(
        position=found["position"],
        line_ms=found["line_ms"],
        extent=Extent(**extent),
        bits=found["bits"],
        totals={name: np.array(v, dtype=np.int64) for name, v in found["totals"].items()},
        calls={int(size): tuple(numbers) for size, numbers in found["calls"].items()},
        dropped=found["dropped"],
        uncopied=found["uncopied"],
        latencies=_latencies(rows["latencies"]),
    )


def save(db: sqlite3.Connection, state: State) -> None:
    """Keep the state."""
    arrays = [getattr(state.latencies, f.name) for f in dataclasses.fields(LatencySums)]
    plain = {
        "position": state.position,
        "line_ms": state.line_ms,
        "extent": dataclasses.asdict(state.extent),
        "bits": state.bits,
        "totals": {name: values.tolist() for name, values in state.totals.items()},
        "calls": state.calls,
        "dropped": state.dropped,
        "uncopied": state.uncopied,
    }
    rows = [
        ("state", json.dumps(plain)),
        ("latencies", np.concatenate(arrays, axis=1, dtype="<i8").tobytes()),
    ]
    db.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", rows)


def _latencies(data: bytes) -> LatencySums:
    whole = np.frombuffer(data, dtype="<i8").reshape(2, -1).astype(np.int64)
    return LatencySums(*np.split(whole, [BINS, 2 * BINS], axis=1))


def wait(db: sqlite3.Connection, found: Facts) -> None:
    """Keep records that are after the line."""
    rows = zip(
        found.rows["event_ms"].tolist(),
        found.writer,
        found.seq.tolist(),
        found.decision_id,
        _blobs(found.rows),
        strict=True,
    )
    db.executemany("INSERT INTO waiting VALUES (?, ?, ?, ?, ?)", rows)


def waiting(db: sqlite3.Connection, *, after_ms: float) -> int:
    """How many records wait that are later than that."""
    query = "SELECT count(*) FROM waiting WHERE event_ms > ?"
    return int(db.execute(query, (after_ms,)).fetchone()[0])


def due(db: sqlite3.Connection, until_ms: float, limit: int) -> Facts:
    """The first records that wait no longer; they are taken away."""
    query = (
        "SELECT decision_id, writer, seq, facts, event_ms FROM waiting WHERE event_ms <= ?"
        " ORDER BY event_ms, writer, seq LIMIT ?"
    )
    rows = db.execute(query, (until_ms, limit)).fetchall()
    keys = [(event_ms, writer, seq) for _, writer, seq, _, event_ms in rows]
    db.executemany("DELETE FROM waiting WHERE event_ms = ? AND writer = ? AND seq = ?", keys)
    return _facts([row[:4] for row in rows])


def fold(
    db: sqlite3.Connection, state: State, subject: Subject, found: Facts, voided: set[str]
) -> None:
    """Count records, and take voided decisions back, whether they are here yet or not."""
    state.extent = state.extent.and_of(Extent.of(found))
    _coarsen(db, state)
    db.executemany("INSERT OR IGNORE INTO voids VALUES (?)", [(i,) for i in voided])
    incoming = found.without(_voided(db, set(found.decision_id)))
    stored = _stored(db, {*incoming.decision_id, *voided})
    mates = _mates(db, joined([incoming, stored])) - set(stored.decision_id)
    stored = joined([stored, _stored(db, mates)])
    before, now = (
        portion(traffic(part, subject), is_timed=subject.role == "canary")
        for part in (stored, joined([stored.without(voided), incoming]))
    )
    _keep(db, incoming, voided)
    _count(db, state, before, now)


def aggregates_of(db: sqlite3.Connection, state: State, subject: Subject) -> Aggregates:
    """What is judged, of what is in the file."""
    of_view = "SELECT counts FROM clusters WHERE view = ? ORDER BY a, b"
    counts = b"".join(row[0] for row in db.execute(of_view, (OUTAGES,)))
    latencies = None
    if subject.role == "canary":
        paces = [_paces(row[0]) for row in db.execute(of_view, (PACES,))]
        spread = np.stack(paces) if paces else np.zeros((0, 2, BINS), dtype=np.int64)
        latencies = Latencies(state.latencies, spread)
    (busiest,) = db.execute("SELECT coalesce(max(decided), 0) FROM windows").fetchone()
    recent = "SELECT coalesce(sum(uncopied), 0) FROM windows WHERE number >= ?"
    (young,) = db.execute(recent, (state.extent.copies_due,)).fetchone()
    return Aggregates(
        generation=subject.generation,
        extent=state.extent,
        totals=dict(state.totals),
        outages=np.frombuffer(counts, dtype=_COUNT).reshape(-1, 4).astype(np.int64),
        latencies=latencies,
        calls=state.calls,
        dropped=dict(state.dropped),
        uncopied=state.uncopied - young,
        busiest=busiest,
        position=dict(state.position),
    )


def _facts(rows: Sequence[tuple[str, str, int, bytes]]) -> Facts:
    ids, writers, seq, data = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Facts(
        np.array([*ids, None], dtype=object)[:-1],
        np.array([*writers, None], dtype=object)[:-1],
        np.array(seq, dtype=np.int64),
        np.frombuffer(b"".join(data), dtype=ROW),
    )


def _blobs(rows: Any) -> list[bytes]:
    data, size = rows.tobytes(), rows.dtype.itemsize
    return [data[start : start + size] for start in range(0, len(data), size)]


def _stored(db: sqlite3.Connection, decision_ids: Iterable[str]) -> Facts:
    query = "SELECT decision_id, writer, seq, facts FROM records WHERE decision_id = ?"
    found = (db.execute(query, (decision_id,)).fetchall() for decision_id in decision_ids)
    return _facts(list(itertools.chain.from_iterable(found)))


def _voided(db: sqlite3.Connection, decision_ids: Collection[str]) -> set[str]:
    if not db.execute("SELECT 1 FROM voids LIMIT 1").fetchone():
        return set()
    query = "SELECT decision_id FROM voids WHERE decision_id = ?"
    return {i for i in decision_ids if db.execute(query, (i,)).fetchone()}


def _mates(db: sqlite3.Connection, found: Facts) -> set[str]:
    """Decisions whose copies were sent with those of these: how many there were makes one late."""
    copies = found.of(found.has(COPY) & (found.rows["lost"] == 0))
    query = (
        "SELECT decision_id FROM records"
        " WHERE writer = ? AND recorded_ms = ? AND latency_us = ? AND recorded_ms IS NOT NULL"
    )
    rows = (db.execute(query, call).fetchall() for call in set(calls(copies)))
    return {decision_id for (decision_id,) in itertools.chain.from_iterable(rows)}


def _keep(db: sqlite3.Connection, incoming: Facts, voided: set[str]) -> None:
    sent = incoming.has(COPY) & (incoming.rows["lost"] == 0)
    shared = [
        call[1:] if is_sent else (None, None)
        for call, is_sent in zip(calls(incoming), sent.tolist(), strict=True)
    ]
    rows = zip(
        incoming.decision_id, incoming.writer, incoming.seq.tolist(), shared,
        _blobs(incoming.rows), strict=True,
    )  # fmt: skip
    db.executemany(
        "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)",
        ((i, writer, seq, *call, data) for i, writer, seq, call, data in rows),
    )
    db.executemany("DELETE FROM records WHERE decision_id = ?", [(i,) for i in voided])


def _count(db: sqlite3.Connection, state: State, before: Portion, now: Portion) -> None:
    for name, sums in TOTALS.items():
        changed = changes(getattr(now, name), getattr(before, name))
        old, new = _add(db, VIEWS[name], changed)
        state.totals[name] = state.totals[name] + sums(new) - sums(old)
        if name == "moments":
            _add(db, OUTAGES, outages(changed, state.bits))
    state.totals["counts"] = state.totals["counts"] + now.counts - before.counts
    for portion_, sign in ((now, 1), (before, -1)):
        state.calls = calls_changed(state.calls, by=portion_.calls, sign=sign)
        for reason, number in portion_.dropped.items():
            state.dropped[reason] = state.dropped.get(reason, 0) + sign * number
    state.dropped = {reason: number for reason, number in state.dropped.items() if number}
    windows = changes(now.windows, before.windows)
    state.uncopied += int(windows.counts[:, 1].sum())
    db.executemany(
        "INSERT INTO windows VALUES (?, ?, ?) ON CONFLICT (number) DO UPDATE SET"
        " decided = decided + excluded.decided, uncopied = uncopied + excluded.uncopied",
        np.column_stack((windows.keys[0], windows.counts)).tolist(),
    )
    answers = changes(now.answers, before.answers)
    if len(answers.counts):
        _add_answers(db, state, answers)


def _add(db: sqlite3.Connection, view: int, changed: Grouped) -> tuple[Integers, Integers]:
    """The counts of the clusters that change, before and after."""
    width = changed.counts.shape[1]
    keys = _keys(view, changed.keys)
    nothing = bytes(width * _COUNT.itemsize)
    query = "SELECT counts FROM clusters WHERE view = ? AND a = ? AND b = ?"
    found = (db.execute(query, key).fetchone() for key in keys)
    data = b"".join(nothing if row is None else row[0] for row in found)
    old = np.frombuffer(data, dtype=_COUNT).reshape(-1, width).astype(np.int64)
    new = old + changed.counts
    rows = zip(keys, _blobs_of_rows(new), strict=True)
    _replace(db, ((key, None if data == nothing else data) for key, data in rows))
    return old, new


def _keys(view: int, keys: Sequence[Integers]) -> list[tuple[int, int, int]]:
    first, second = keys if len(keys) == 2 else (keys[0], np.zeros_like(keys[0]))
    return [(view, a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True)]


def _blobs_of_rows(counts: Integers) -> list[bytes]:
    size, data = counts.shape[1] * _COUNT.itemsize, counts.astype(_COUNT).tobytes()
    return [data[start : start + size] for start in range(0, len(data), size)]


def _replace(
    db: sqlite3.Connection, rows: Iterable[tuple[tuple[int, int, int], bytes | None]]
) -> None:
    """Write clusters; None: nothing is left of it."""
    kept, gone = [], []
    for key, data in rows:
        if data is None:
            gone.append(key)
        else:
            kept.append((*key, data))
    db.executemany("INSERT OR REPLACE INTO clusters VALUES (?, ?, ?, ?)", kept)
    db.executemany("DELETE FROM clusters WHERE view = ? AND a = ? AND b = ?", gone)


def _add_answers(db: sqlite3.Connection, state: State, changed: Grouped) -> None:
    """Latencies, of customers' days and of stretches of wall time."""
    arm, day, unit, moment, bins = changed.keys
    by_day = grouped([arm, day, unit, bins], changed.counts)
    before = _days(db, grouped([arm, day, unit], changed.counts).keys)
    keys = [np.concatenate(pair) for pair in zip(before.keys, by_day.keys, strict=True)]
    now = grouped(keys, np.concatenate((before.counts, by_day.counts)))
    is_left = now.counts[:, 0] > 0
    now = Grouped(tuple(key[is_left] for key in now.keys), now.counts[is_left])
    sums = state.latencies.plus(latency_sums(now)).plus(latency_sums(before), -1)
    state.latencies = sums
    _write_days(db, before, now)
    pieces = grouped([moment >> state.bits, arm, bins], changed.counts)
    query = "SELECT counts FROM clusters WHERE view = ? AND a = ? AND b = 0"
    written = []
    for piece in np.unique(pieces.keys[0]).tolist():
        row = db.execute(query, (PACES, piece)).fetchone()
        spread = np.zeros((2, BINS), dtype=np.int64) if row is None else _paces(row[0])
        here = pieces.keys[0] == piece
        np.add.at(spread, (pieces.keys[1][here], pieces.keys[2][here]), pieces.counts[here, 0])
        written.append(((PACES, piece, 0), _packed(spread) if spread.any() else None))
    _replace(db, written)


def _days(db: sqlite3.Connection, keys: tuple[Integers, ...]) -> Grouped:
    """Answers of customers' days by arm, day, unit and bin, as they are kept."""
    query = "SELECT counts FROM clusters WHERE view = ? AND a = ? AND b = ?"
    places = zip(*(key.tolist() for key in keys), strict=True)
    found = [db.execute(query, (ANSWERS[arm], *place)).fetchone() for arm, *place in places]
    data = [b"" if row is None else row[0] for row in found]
    entries = np.frombuffer(b"".join(data), dtype=_BINS)
    lengths = np.array([len(blob) // _BINS.itemsize for blob in data], dtype=np.int64)
    repeated = [np.repeat(key, lengths) for key in keys]
    answers = entries["answers"].astype(np.int64)[:, None]
    return Grouped((*repeated, entries["bin"].astype(np.int64)), answers)


def _write_days(db: sqlite3.Connection, before: Grouped, now: Grouped) -> None:
    gone = {(ANSWERS[a], d, u): None for a, d, u in _places(before)}
    places = _places(now)
    entries = np.zeros(len(now.counts), dtype=_BINS)
    entries["bin"], entries["answers"] = now.keys[3], now.counts[:, 0]
    written: dict[tuple[int, int, int], bytes | None] = dict(gone)
    start = 0
    for (arm, day, unit), group in itertools.groupby(places):
        end = start + sum(1 for _ in group)
        written[ANSWERS[arm], day, unit] = entries[start:end].tobytes()
        start = end
    _replace(db, written.items())


def _places(found: Grouped) -> list[tuple[int, int, int]]:
    arm, day, unit = (key.tolist() for key in found.keys[:3])
    return list(zip(arm, day, unit, strict=True))


def _paces(data: bytes) -> Integers:
    counts = np.frombuffer(zlib.decompress(data), dtype=_COUNT)
    return counts.reshape(2, BINS).astype(np.int64)


def _packed(spread: Integers) -> bytes:
    return zlib.compress(spread.astype(_COUNT).tobytes(), 1)


def _coarsen(db: sqlite3.Connection, state: State) -> None:
    """Join stretches of wall time, as the generation has become longer."""
    more, state.bits = state.extent.outage_bits - state.bits, state.extent.outage_bits
    if not more:
        return
    query = "SELECT a, counts FROM clusters WHERE view = ?"
    fine = db.execute(query, (OUTAGES,)).fetchall()
    paces = db.execute(query, (PACES,)).fetchall()
    db.execute("DELETE FROM clusters WHERE view IN (?, ?)", (OUTAGES, PACES))
    counts = np.frombuffer(b"".join(data for _, data in fine), dtype=_COUNT).reshape(-1, 4)
    pieces = np.array([piece for piece, _ in fine], dtype=np.int64)
    _add(db, OUTAGES, grouped([pieces >> more], counts.astype(np.int64)))
    joint: dict[int, Integers] = {}
    for piece, data in paces:
        joint[piece >> more] = joint.get(piece >> more, 0) + _paces(data)
    _replace(db, (((PACES, piece, 0), _packed(spread)) for piece, spread in joint.items()))
