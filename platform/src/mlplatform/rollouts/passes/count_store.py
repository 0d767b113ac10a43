"""How records change the stored counts of a generation in SQLite.

Records are stored by decision, so that a copy finds its decision whenever it comes, and a void
takes back what its decision has added. A change adds the difference of two portions to the
clusters: the touched decisions after the change, less the same decisions before it. Sums over
clusters change by the same difference of the touched clusters.
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
from mlplatform.rollouts.verdicts.clusters import KeyedCounts, changes, group_starts, grouped
from mlplatform.rollouts.verdicts.facts import (
    COPY,
    ROW,
    Integers,
    RecordFacts,
    Subject,
    concatenated,
)
from mlplatform.rollouts.verdicts.latencies import BINS, BinnedAnswers, Latencies, LatencySums
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
CREATE TABLE IF NOT EXISTS customers (view INTEGER NOT NULL, a INTEGER NOT NULL,
    b INTEGER NOT NULL, counts BLOB NOT NULL, PRIMARY KEY (b, view, a)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS windows (number INTEGER PRIMARY KEY, decided INTEGER NOT NULL,
    uncopied INTEGER NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS busiest ON windows (decided);
"""
"""The tables. `recorded_ms` and `latency_us` of a copy that was sent identify its call. All rows of
one customer, whose number is `b`, lie together: a pass touches thousands of customers, and then
reads and writes only as many pages."""

VIEWS: Final = {"customers": 0, "days": 1, "moments": 2}
OUTAGES, DAY_ANSWERS, OUTAGE_ANSWERS, SEGMENTS = 3, (4, 5), (6, 7), 8
"""Views besides customers and their days: stretches of wall time; latencies by bin, of customers'
days and of stretches of wall time; customers of a segment."""
_OF_CUSTOMERS: Final = frozenset({0, 1, 4, 5, 8})
_WIDTHS: Final = {"customers": 14, "days": 4, "moments": 6}
_BINS: Final = np.dtype([("bin", "<u2"), ("answers", "<u4")])
_COUNT: Final = np.dtype("<i4")
_AT_ONCE: Final = 500
"""The number of decisions that one query asks for."""
CLUSTERS_AT_ONCE: Final = 500
"""The number of clusters whose latencies are in memory at once: a busy customer's day has hundreds
of bins."""
_Place = tuple[int, int, int]
"""The key of a cluster: view, a, b."""


def _table(view: int) -> str:
    return "customers" if view in _OF_CUSTOMERS else "clusters"


def _no_latencies() -> LatencySums:
    return LatencySums(*(np.zeros((2, n), dtype=np.int64) for n in (BINS, BINS, 2)))


@dataclass(slots=True)
class State:
    """State that is stored beside the tables.

    Args:
        line_ms: event time up to which the counted records are complete.
        bits: outage slices are joined to stretches of 2^bits slices in the tables
            (`Extent.outage_bits`).
        uncopied: number of decisions without a copy, including those whose copy may still come.
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
    """The stored state; a new one where there is none yet."""
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
    """Store the state."""
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


def wait(db: sqlite3.Connection, found: RecordFacts) -> None:
    """Store records that are after the line."""
    rows = zip(
        found.rows["event_ms"].tolist(),
        found.writer,
        found.seq.tolist(),
        found.decision_id,
        _blobs(found.rows),
        strict=True,
    )
    db.executemany("INSERT INTO waiting VALUES (?, ?, ?, ?, ?)", rows)


def waiting_records(db: sqlite3.Connection, *, after_ms: float) -> int:
    """The number of waiting records that are later than this event time."""
    query = "SELECT count(*) FROM waiting WHERE event_ms > ?"
    return int(db.execute(query, (after_ms,)).fetchone()[0])


def due(db: sqlite3.Connection, until_ms: float, limit: int) -> RecordFacts:
    """Remove and return the first records that no longer wait for the line."""
    query = (
        "SELECT decision_id, writer, seq, facts, event_ms FROM waiting WHERE event_ms <= ?"
        " ORDER BY event_ms, writer, seq LIMIT ?"
    )
    rows = db.execute(query, (until_ms, limit)).fetchall()
    keys = [(event_ms, writer, seq) for _, writer, seq, _, event_ms in rows]
    db.executemany("DELETE FROM waiting WHERE event_ms = ? AND writer = ? AND seq = ?", keys)
    return _facts([row[:4] for row in rows])


def add_records(
    db: sqlite3.Connection, state: State, subject: Subject, found: RecordFacts, voided: set[str]
) -> None:
    """Count records, and take back voided decisions, also those whose records come later."""
    state.extent = state.extent.and_of(Extent.of(found))
    _coarsen(db, state)
    db.executemany("INSERT OR IGNORE INTO voids VALUES (?)", [(i,) for i in voided])
    incoming = found.without(_voided(db, set(found.decision_id)))
    stored = _stored_facts(db, {*incoming.decision_id, *voided})
    sharing = _sharing_calls(db, concatenated([incoming, stored])) - set(stored.decision_id)
    stored = concatenated([stored, _stored_facts(db, sharing)])
    before, now = (
        portion(traffic(part, subject), subject)
        for part in (stored, concatenated([stored.without(voided), incoming]))
    )
    _keep(db, incoming, voided)
    _count(db, state, before, now)
    if subject.segments:
        _count_segments(db, state, changes(now.segments, before.segments), len(subject.segments))


def aggregates_of(db: sqlite3.Connection, state: State, subject: Subject) -> Aggregates:
    """The aggregates to be judged, from the file."""
    pieces = _pieces(db)
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
        outages=pieces.counts,
        long_outages=outages(pieces, state.extent.longer_bits).counts,
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


def _facts(rows: Sequence[tuple[str, str, int, bytes]]) -> RecordFacts:
    ids, writers, seq, data = zip(*rows, strict=True) if rows else ((), (), (), ())
    return RecordFacts(
        np.array([*ids, None], dtype=object)[:-1],
        np.array([*writers, None], dtype=object)[:-1],
        np.array(seq, dtype=np.int64),
        np.frombuffer(b"".join(data), dtype=ROW),
    )


def _blobs(rows: Any) -> list[bytes]:
    data, size = rows.tobytes(), rows.dtype.itemsize
    return [data[start : start + size] for start in range(0, len(data), size)]


def _stored_facts(db: sqlite3.Connection, decision_ids: Iterable[str]) -> RecordFacts:
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


def _sharing_calls(db: sqlite3.Connection, found: RecordFacts) -> set[str]:
    """The decisions whose copies were sent in one call with copies of these. The number of copies
    in a call decides whether one is late."""
    copies = found.of(found.has(COPY) & (found.rows["lost"] == 0))
    query = (
        "SELECT decision_id FROM records"
        " WHERE writer = ? AND recorded_ms = ? AND latency_us = ? AND recorded_ms IS NOT NULL"
    )
    rows = (db.execute(query, call).fetchall() for call in set(calls(copies)))
    return {decision_id for (decision_id,) in itertools.chain.from_iterable(rows)}


def _keep(db: sqlite3.Connection, incoming: RecordFacts, voided: set[str]) -> None:
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


def _count_segments(
    db: sqlite3.Connection, state: State, changed: KeyedCounts, number: int
) -> None:
    if not len(changed.counts):
        changed = KeyedCounts(changed.keys, np.zeros((0, SEGMENT_WIDTH), dtype=np.int64))
    old, new = (KeyedCounts(changed.keys, counts) for counts in _add(db, SEGMENTS, changed))
    more = segment_totals(new, number) - segment_totals(old, number)
    state.totals["segments"] = _totals(state, number)["segments"] + more


def _add(db: sqlite3.Connection, view: int, changed: KeyedCounts) -> tuple[Integers, Integers]:
    """The counts of the clusters that change, before and after."""
    width = changed.counts.shape[1]
    keys = _keys(view, changed.keys)
    nothing = bytes(width * _COUNT.itemsize)
    query = f"SELECT counts FROM {_table(view)} WHERE view = ? AND a = ? AND b = ?"
    found = (db.execute(query, key).fetchone() for key in keys)
    data = b"".join(nothing if row is None else row[0] for row in found)
    old = np.frombuffer(data, dtype=_COUNT).reshape(-1, width).astype(np.int64)
    new = old + changed.counts
    rows = zip(keys, _blobs_of_rows(new), strict=True)
    _replace(db, _table(view), ((key, None if data == nothing else data) for key, data in rows))
    return old, new


def _keys(view: int, keys: Sequence[Integers]) -> list[_Place]:
    first, second = keys if len(keys) == 2 else (keys[0], np.zeros_like(keys[0]))
    if len(keys) == 1 and view in _OF_CUSTOMERS:
        first, second = second, first
    return [(view, a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True)]


def _blobs_of_rows(counts: Integers) -> list[bytes]:
    size, data = counts.shape[1] * _COUNT.itemsize, counts.astype(_COUNT).tobytes()
    return [data[start : start + size] for start in range(0, len(data), size)]


def _replace(
    db: sqlite3.Connection, table: str, rows: Iterable[tuple[_Place, bytes | None]]
) -> None:
    """Write clusters; None deletes a cluster."""
    kept, gone = [], []
    for key, data in rows:
        if data is None:
            gone.append(key)
        else:
            kept.append((*key, data))
    db.executemany(
        f"INSERT INTO {table} VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET counts = excluded.counts",  # in its place
        kept,
    )
    db.executemany(f"DELETE FROM {table} WHERE view = ? AND a = ? AND b = ?", gone)


def _add_answers(db: sqlite3.Connection, state: State, changed: KeyedCounts) -> None:
    """Add latencies, by customers' days and by stretches of wall time."""
    arm, day, unit, outage_slice, bins = changed.keys
    for some in _clusters(grouped([arm, day, unit, bins], changed.counts)):
        before, now = _add_bins(db, DAY_ANSWERS, some)
        state.latencies = state.latencies.plus(before.sums(), -1).plus(now.sums())
    pieces = [arm, outage_slice >> state.bits, np.zeros_like(arm), bins]
    _add_bins(db, OUTAGE_ANSWERS, grouped(pieces, changed.counts))


def _clusters(found: KeyedCounts) -> Iterator[KeyedCounts]:
    """The clusters in portions, each cluster whole: its bins are the rows with the same first three
    keys."""
    starts = group_starts(found.keys[:3])[::CLUSTERS_AT_ONCE]
    for start, end in zip(starts, [*starts[1:], len(found.counts)], strict=True):
        yield KeyedCounts(tuple(key[start:end] for key in found.keys), found.counts[start:end])


def _add_bins(
    db: sqlite3.Connection, views: tuple[int, int], changed: KeyedCounts
) -> tuple[BinnedAnswers, BinnedAnswers]:
    """Answers by bin of the clusters that change, before and after.

    Bins of a cluster are merged by one number for cluster and bin: a busy customer's day has
    hundreds, of which a pass changes a few.
    """
    arm, a, b, bins = changed.keys
    starts = group_starts((arm, a, b))
    first = np.array(views)[arm[starts]], a[starts], b[starts]
    places: list[_Place] = list(zip(*(key.tolist() for key in first), strict=True))
    table = _table(views[0])
    query = f"SELECT counts FROM {table} WHERE view = ? AND a = ? AND b = ?"
    rows = (db.execute(query, place).fetchone() for place in places)
    kept, lengths = _entries([row[0] if row else b"" for row in rows])
    numbers = np.arange(len(places))
    there = np.repeat(numbers, lengths) * BINS + kept["bin"]
    change = np.repeat(numbers, np.diff(starts, append=len(bins))) * BINS + bins
    at = there.searchsorted(change)
    is_new = there[np.minimum(at, len(there) - 1)] != change if len(there) else at == 0
    where = np.insert(there, at[is_new], change[is_new])
    before = np.insert(kept["answers"].astype(np.int64), at[is_new], 0)
    now = before.copy()
    now[where.searchsorted(change)] += changed.counts[:, 0]
    ends = where.searchsorted((numbers + 1) * BINS)
    _replace(db, table, zip(places, _bin_blobs(ends, where % BINS, now), strict=True))
    cut = np.concatenate(([0], ends[:-1])).astype(np.int64)
    old, new = (BinnedAnswers(arm[starts], cut, where % BINS, counts) for counts in (before, now))
    return old, new


def _bin_blobs(ends: Integers, bins: Integers, now: Integers) -> list[bytes | None]:
    """The stored bins of each cluster; None if the cluster has no answer left."""
    entries, is_left = np.zeros(len(now), dtype=_BINS), now > 0
    entries["bin"], entries["answers"] = bins, now
    data, size = entries[is_left].tobytes(), _BINS.itemsize
    until = (np.cumsum(is_left)[ends - 1] * size).tolist()
    return [data[start:end] or None for start, end in itertools.pairwise([0, *until])]


def _entries(blobs: Sequence[bytes]) -> tuple[Any, Integers]:
    """The stored bins and their answers, and the number of bins of each cluster."""
    lengths = np.array([len(data) // _BINS.itemsize for data in blobs], dtype=np.int64)
    return np.frombuffer(b"".join(blobs), dtype=_BINS), lengths


def _pieces(db: sqlite3.Connection) -> KeyedCounts:
    """Failures and requests of either arm by stretch of wall time."""
    query = "SELECT a, counts FROM clusters WHERE view = ? ORDER BY a"
    rows = db.execute(query, (OUTAGES,)).fetchall()
    counts = np.frombuffer(b"".join(data for _, data in rows), dtype=_COUNT).reshape(-1, 4)
    return KeyedCounts((np.array([a for a, _ in rows], dtype=np.int64),), counts.astype(np.int64))


def _outage_answers(db: sqlite3.Connection) -> KeyedCounts:
    """Latencies by arm, stretch of wall time and bin."""
    query = "SELECT view, a, counts FROM clusters WHERE view IN (?, ?) ORDER BY view, a"
    rows = db.execute(query, OUTAGE_ANSWERS).fetchall()
    kept, lengths = _entries([data for *_, data in rows])
    place = np.array([row[:2] for row in rows], dtype=np.int64).reshape(-1, 2)
    view, piece = (np.repeat(key, lengths) for key in place.T)
    bins, answers = (kept[name].astype(np.int64) for name in ("bin", "answers"))
    return KeyedCounts((view - OUTAGE_ANSWERS[0], piece, bins), answers[:, None])


def _coarsen(db: sqlite3.Connection, state: State) -> None:
    """Join stretches of wall time, as the generation has become longer."""
    more, state.bits = state.extent.outage_bits - state.bits, state.extent.outage_bits
    if not more:
        return
    pieces, paces = _pieces(db), _outage_answers(db)
    db.execute("DELETE FROM clusters WHERE view IN (?, ?, ?)", (OUTAGES, *OUTAGE_ANSWERS))
    _add(db, OUTAGES, outages(pieces, more))
    arm, piece, bins = paces.keys
    joint = grouped([arm, piece >> more, np.zeros_like(arm), bins], paces.counts)
    _add_bins(db, OUTAGE_ANSWERS, joint)
