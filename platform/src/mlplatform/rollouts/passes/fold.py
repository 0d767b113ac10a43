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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from mlplatform.rollouts.verdicts.aggregates import (
    SEGMENT_SUMS,
    SEGMENT_WIDTH,
    TOTALS,
    Aggregates,
    Calls,
    Extent,
    Portion,
    calls_changed,
    outages,
    portion,
    segment_totals,
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
OUTAGES, DAY_ANSWERS, OUTAGE_ANSWERS, SEGMENTS = 3, (4, 5), (6, 7), 8
"""Clusters of stretches of wall time; of either arm, latencies by bin of customers' days and of
stretches of wall time; customers of a segment."""
_WIDTHS: Final = {"customers": 14, "days": 4, "moments": 6}
_BINS: Final = np.dtype([("bin", "<u2"), ("answers", "<u4")])
_COUNT: Final = np.dtype("<i4")
_AT_ONCE: Final = 500
"""Decisions that one query asks for."""
_Place = tuple[int, int, int]
"""The key of a cluster: view, a, b."""


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
        portion(
            traffic(part, subject),
            is_timed=subject.role == "canary",
            segments=len(subject.segments),
        )
        for part in (stored, joined([stored.without(voided), incoming]))
    )
    _keep(db, incoming, voided)
    _count(db, state, before, now)
    if subject.segments:
        _count_segments(db, state, changes(now.segments, before.segments), len(subject.segments))


def aggregates_of(db: sqlite3.Connection, state: State, subject: Subject) -> Aggregates:
    """What is judged, of what is in the file."""
    of_view = "SELECT counts FROM clusters WHERE view = ? ORDER BY a, b"
    counts = b"".join(row[0] for row in db.execute(of_view, (OUTAGES,)))
    latencies = None
    if subject.role == "canary":
        latencies = Latencies.of(state.latencies, _outage_answers(db))
    (busiest,) = db.execute("SELECT coalesce(max(decided), 0) FROM windows").fetchone()
    recent = "SELECT coalesce(sum(uncopied), 0) FROM windows WHERE number >= ?"
    (young,) = db.execute(recent, (state.extent.copies_due,)).fetchone()
    return Aggregates(
        generation=subject.generation,
        extent=state.extent,
        totals=_totals(state, len(subject.segments)),
        outages=np.frombuffer(counts, dtype=_COUNT).reshape(-1, 4).astype(np.int64),
        latencies=latencies,
        calls=state.calls,
        dropped=dict(state.dropped),
        uncopied=state.uncopied - young,
        busiest=busiest,
        position=dict(state.position),
        segments=tuple(segment.name for segment in subject.segments),
    )


def _totals(state: State, segments: int) -> dict[str, Integers]:
    nothing = {"segments": np.zeros((segments, SEGMENT_SUMS), np.int64)} if segments else {}
    return nothing | state.totals


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
    query = "SELECT decision_id, writer, seq, facts FROM records WHERE decision_id IN "
    return _facts(list(_of_decisions(db, query, decision_ids)))


def _voided(db: sqlite3.Connection, decision_ids: Iterable[str]) -> set[str]:
    query = "SELECT decision_id FROM voids WHERE decision_id IN "
    return {decision_id for (decision_id,) in _of_decisions(db, query, decision_ids)}


def _of_decisions(
    db: sqlite3.Connection, query: str, decision_ids: Iterable[str]
) -> Iterator[tuple[Any, ...]]:
    ids = list(decision_ids)
    for start in range(0, len(ids), _AT_ONCE):
        some = ids[start : start + _AT_ONCE]
        yield from db.execute(f"{query}({','.join('?' * len(some))})", some)


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


def _count_segments(db: sqlite3.Connection, state: State, changed: Grouped, number: int) -> None:
    if not len(changed.counts):
        changed = Grouped(changed.keys, np.zeros((0, SEGMENT_WIDTH), dtype=np.int64))
    old, new = (Grouped(changed.keys, counts) for counts in _add(db, SEGMENTS, changed))
    more = segment_totals(new, number) - segment_totals(old, number)
    state.totals["segments"] = _totals(state, number)["segments"] + more


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


def _keys(view: int, keys: Sequence[Integers]) -> list[_Place]:
    first, second = keys if len(keys) == 2 else (keys[0], np.zeros_like(keys[0]))
    return [(view, a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True)]


def _blobs_of_rows(counts: Integers) -> list[bytes]:
    size, data = counts.shape[1] * _COUNT.itemsize, counts.astype(_COUNT).tobytes()
    return [data[start : start + size] for start in range(0, len(data), size)]


def _replace(db: sqlite3.Connection, rows: Iterable[tuple[_Place, bytes | None]]) -> None:
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
    before, now = _add_bins(db, DAY_ANSWERS, grouped([arm, day, unit, bins], changed.counts))
    state.latencies = state.latencies.plus(latency_sums(now)).plus(latency_sums(before), -1)
    pieces = [arm, moment >> state.bits, np.zeros_like(arm), bins]
    _add_bins(db, OUTAGE_ANSWERS, grouped(pieces, changed.counts))


def _add_bins(
    db: sqlite3.Connection, views: tuple[int, int], changed: Grouped
) -> tuple[Grouped, Grouped]:
    """Answers by arm, cluster and bin of the clusters that change, before and after."""
    touched = list(dict.fromkeys(_places(views, changed)))
    query = "SELECT counts FROM clusters WHERE view = ? AND a = ? AND b = ?"
    rows = (db.execute(query, place).fetchone() for place in touched)
    kept = [(place, row[0]) for place, row in zip(touched, rows, strict=True) if row]
    before = _binned(views, kept)
    keys = [np.concatenate(pair) for pair in zip(before.keys, changed.keys, strict=True)]
    now = grouped(keys, np.concatenate((before.counts, changed.counts)))
    is_left = now.counts[:, 0] > 0
    now = Grouped(tuple(key[is_left] for key in now.keys), now.counts[is_left])
    _write_bins(db, views, now, gone=[place for place, _ in kept])
    return before, now


def _write_bins(
    db: sqlite3.Connection, views: tuple[int, int], now: Grouped, gone: Sequence[_Place] = ()
) -> None:
    entries = np.zeros(len(now.counts), dtype=_BINS)
    entries["bin"], entries["answers"] = now.keys[3], now.counts[:, 0]
    written: dict[_Place, bytes | None] = dict.fromkeys(gone)
    start = 0
    for place, group in itertools.groupby(_places(views, now)):
        end = start + sum(1 for _ in group)
        written[place] = entries[start:end].tobytes()
        start = end
    _replace(db, written.items())


def _places(views: tuple[int, int], found: Grouped) -> list[_Place]:
    arm, a, b = (key.tolist() for key in found.keys[:3])
    return list(zip([views[number] for number in arm], a, b, strict=True))


def _binned(views: tuple[int, int], rows: Sequence[tuple[_Place, bytes]]) -> Grouped:
    """What is kept of these clusters, by arm, cluster and bin."""
    places = np.array([place for place, _ in rows], dtype=np.int64).reshape(-1, 3)
    data = [row for _, row in rows]
    lengths = np.array([len(row) // _BINS.itemsize for row in data], dtype=np.int64)
    view, a, b = (np.repeat(key, lengths) for key in places.T)
    entries = np.frombuffer(b"".join(data), dtype=_BINS)
    bins, answers = (entries[name].astype(np.int64) for name in ("bin", "answers"))
    return Grouped((view - views[0], a, b, bins), answers[:, None])


def _outage_answers(db: sqlite3.Connection) -> Grouped:
    """Latencies by arm, stretch of wall time and bin."""
    query = "SELECT view, a, b, counts FROM clusters WHERE view IN (?, ?) ORDER BY view, a"
    rows = [(place, data) for *place, data in db.execute(query, OUTAGE_ANSWERS)]
    found = _binned(OUTAGE_ANSWERS, rows)
    arm, piece, _, bins = found.keys
    return Grouped((arm, piece, bins), found.counts)


def _coarsen(db: sqlite3.Connection, state: State) -> None:
    """Join stretches of wall time, as the generation has become longer."""
    more, state.bits = state.extent.outage_bits - state.bits, state.extent.outage_bits
    if not more:
        return
    fine = db.execute("SELECT a, counts FROM clusters WHERE view = ?", (OUTAGES,)).fetchall()
    paces = _outage_answers(db)
    db.execute("DELETE FROM clusters WHERE view IN (?, ?, ?)", (OUTAGES, *OUTAGE_ANSWERS))
    counts = np.frombuffer(b"".join(data for _, data in fine), dtype=_COUNT).reshape(-1, 4)
    pieces = np.array([number for number, _ in fine], dtype=np.int64)
    _add(db, OUTAGES, grouped([pieces >> more], counts.astype(np.int64)))
    arm, piece, bins = paces.keys
    joint = grouped([arm, piece >> more, np.zeros_like(arm), bins], paces.counts)
    _write_bins(db, OUTAGE_ANSWERS, joint)
