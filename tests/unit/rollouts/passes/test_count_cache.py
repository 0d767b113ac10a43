"""What is kept is what a recount finds, whatever came in which order, and however a pass ended."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplatform.decisions.records.port import RecordQuery, Watermark
from mlplatform.model.policies.segments import SegmentSource
from mlplatform.rollouts.journal.basis_evidence import Role
from mlplatform.rollouts.passes import count_cache, count_store
from mlplatform.rollouts.passes.count_cache import LogCounts, count
from mlplatform.rollouts.verdicts.aggregates import Aggregates, aggregates
from mlplatform.rollouts.verdicts.facts import Subject, facts
from mlplatform.runtime.storage import sqlite
from rollout_world import canary_rows, shadow_rows, table

SEGMENTS = (
    SegmentSource("small", "field", "amount", below=50.0),
    SegmentSource("round", "field", "amount", values=(100.0, 10.0)),
    SegmentSource("early", "hour_of_day", below=6.0),
)
WITHIN_US = 1000.0
"""A copy of 5 ms is late where its call carried two rows, and not where it carried three."""


@pytest.fixture(autouse=True, scope="module")
def _few_clusters_at_once() -> Iterator[None]:
    """Latencies of a portion lie in several groups of clusters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(count_store, "CLUSTERS_AT_ONCE", 2)
        yield


@dataclass
class Log:
    """Records of several writers, in the order in which each wrote them.

    Args:
        reached: by writer, how much of it is there yet.
    """

    written: pa.Table
    reached: dict[str, int] = field(default_factory=dict)
    complete_ms: int | None = None
    reads: list[int] = field(default_factory=list)

    def read(self, query: RecordQuery) -> pa.Table:
        parts = []
        for writer in self.writers():
            rows = self.written.filter(
                (pc.field("writer") == writer)
                & (pc.field("seq") > (query.after or {}).get(writer, 0))
                & (pc.field("seq") <= self.reached.get(writer, 10**9))
                & pc.field("kind").isin(list(query.kinds))
            )
            if query.generation is not None:
                rows = rows.filter(pc.field("generation") == query.generation)
            if query.from_ms is not None:
                rows = rows.filter(pc.field("event_ms") >= query.from_ms)
            parts.append(rows.slice(0, query.limit))
        found = pa.concat_tables(parts) if parts else self.written
        self.reads.append(len(found))
        return found

    def writers(self) -> list[str]:
        return sorted(set(self.written["writer"].to_pylist()))

    def watermarks(self) -> list[Watermark]:
        pairs = zip(
            self.written["writer"].to_pylist(), self.written["seq"].to_pylist(), strict=True
        )
        last: dict[str, int] = {}
        for writer, seq in pairs:
            last[writer] = max(last.get(writer, 0), seq)
        return [
            Watermark(w, min(seq, self.reached.get(w, seq)), self.complete_ms, 0, live=True)
            for w, seq in last.items()
        ]


def advance(folder: Path, log: Log, role: Role, portion: int = count_cache.PORTION) -> LogCounts:
    subject = subject_of(role)
    return count(folder, log, "fraud", subject, log.watermarks(), portion=portion)  # type: ignore[arg-type]


def subject_of(role: Role) -> Subject:
    return Subject(1, role, 2, WITHIN_US, () if role == "champion" else SEGMENTS)


def recount(log: Log, role: Role, until_ms: float = math.inf) -> Aggregates:
    """Of everything that is there, at once, without a file."""
    rows = Log(log.written, log.reached).read(RecordQuery())
    subject = subject_of(role)
    found = facts(rows, subject)
    voids = rows.filter(pc.field("kind") == "void")["decision_id"].to_pylist()
    found = found.of(found.rows["event_ms"] <= until_ms)
    return aggregates(found, subject, frozenset(map(str, voids)))


DECISION = st.tuples(
    st.integers(0, 7),  # decision id: some have two decisions
    st.integers(0, 3),  # customer
    st.sampled_from(["decision", "decision", "shadow", "shadow", "void", "inference", "label"]),
    st.integers(0, 12),  # hours of event time
    st.sampled_from([0, 0, 0, 100, 100_000, 40_000_000]),  # wall time, of calls that share it too
    st.sampled_from([5000, 5000, 5000, 900, None]),  # latency
    st.sampled_from([None, None, None, "deadline", "queue_full", "features"]),
    st.sampled_from(["approve", "review", "decline"]),
    st.booleans(),  # the challenger's
    st.sampled_from([1, 1, 1, 2]),  # generation
    st.sampled_from([10, 100, 99.5, None]),  # amount; None: the payload was erased
)


def row_of(drawn: tuple[Any, ...], seq: int, writer: str) -> dict[str, Any]:
    number, unit, kind, hours, wall_ms, latency_us, reason, decision, mine, generation = drawn[:10]
    amount = drawn[10] if len(drawn) > 10 else None
    copy = kind == "shadow"
    arm = "challenger" if mine or copy else "champion"
    failed = reason is not None
    return {
        "writer": writer,
        "seq": seq,
        "kind": kind,
        "decision_id": f"d{number}",
        "unit": unit,
        "event_ms": hours * 3_600_000,
        "recorded_ms": wall_ms,
        "latency_us": latency_us,
        "degraded": failed,
        "degraded_reason": reason,
        "score": None if failed else 0.4,
        "decision": decision,
        "arm": arm,
        "answered_by": "rules" if failed else arm,
        "version": 2 if mine or copy else 1,
        "generation": generation,
        "payload": None if amount is None or copy else f'{{"request": {{"amount": {amount}}}}}',
    }


def written(drawn: Sequence[tuple[Any, ...]], writers: int) -> pa.Table:
    seqs = [0] * writers
    rows = []
    for place, one in enumerate(drawn):
        writer = place % writers
        seqs[writer] += 1
        rows.append(row_of(one, seqs[writer], f"gateway-{writer}"))
    return table(rows)


@pytest.mark.parametrize("role", ["shadow", "canary", "champion"])
@settings(max_examples=25, deadline=None)
@given(st.lists(DECISION, max_size=40), st.integers(1, 3), st.integers(1, 9), st.data())
def test_any_portions_in_any_order_give_what_a_recount_of_everything_gives(
    tmp_path_factory: pytest.TempPathFactory,
    role: Role,
    drawn: list[tuple[Any, ...]],
    writers: int,
    portion: int,
    data: st.DataObject,
) -> None:
    """Copies before and after their decision, late records, voids, calls cut in two."""
    folder = tmp_path_factory.mktemp("counted")
    log = Log(written(drawn, writers))
    line_ms = -1
    for _ in range(3):
        for writer in log.writers():
            before = log.reached.get(writer, 0)
            log.reached[writer] = before + data.draw(st.integers(0, 12))
        hours = data.draw(st.integers(0, 13))
        log.complete_ms = hours * 3_600_000
        line_ms = max(line_ms, log.complete_ms)
        found = advance(folder, log, role, portion)
        assert found.seen.plain() == recount(log, role).plain()
        assert ("segments" in found.seen.totals) == (role != "champion")
        assert found.complete.plain() == recount(log, role, line_ms).plain()


def test_copies_of_one_call_that_was_read_in_parts_are_late_by_its_whole_size(
    tmp_path: Path,
) -> None:
    copies = [row_of((n, n, "shadow", 0, 0, 5000, None, "approve", True, 1), n + 1, "gateway-1")
              for n in range(3)]  # fmt: skip
    log = Log(table(copies), complete_ms=0)
    for reached, late in ((1, 1), (2, 2), (3, 0)):
        log.reached["gateway-1"] = reached
        found = advance(tmp_path, log, "shadow").seen
        assert found.failures[0].challenger_hits == late
        assert found.calls == {reached: (1, 5000, 25_000_000)}
        assert found.plain() == recount(log, "shadow").plain()


def copies_and_decisions() -> Log:
    rows = shadow_rows(9, 3, generation=1, version=2, alert_share=0.3)
    for number, row in enumerate(rows):
        row |= {"latency_us": 5000 if number % 3 else 20_000, "recorded_ms": number // 6 * 9000}
    rows[20:20] = [{"kind": "void", "decision_id": "g1-3", "generation": 0}]
    return Log(table(rows), complete_ms=1020)


class Killed(Exception):
    """The process ended here."""


class DyingConnection:
    """A connection that ends its process before a statement."""

    def __init__(self, db: sqlite3.Connection, at: int) -> None:
        self._db, self._left = db, at

    def __getattr__(self, name: str) -> Any:
        there = getattr(self._db, name)
        if name not in ("execute", "executemany"):
            return there

        def run(*arguments: Any) -> Any:
            if self._left == 0:
                raise Killed
            self._left -= 1
            return there(*arguments)

        return run


def dump(folder: Path) -> list[list[Any]]:
    (path,) = folder.rglob("*.db")
    db = sqlite3.connect(path)
    names = [n for (n,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    found = [sorted(db.execute(f"SELECT * FROM {name}").fetchall(), key=repr) for name in names]
    db.close()
    return found


def test_a_pass_that_is_killed_at_any_statement_leaves_what_was_before_or_after_a_portion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portion, log = 25, copies_and_decisions()
    states = list(states_between(tmp_path / "whole", log, portion))
    connect = count_cache.sqlite.connect
    for at in range(0, 10_000, 7):
        folder = tmp_path / str(at)
        monkeypatch.setattr(
            count_cache.sqlite,
            "connect",
            lambda *a, at=at, **k: DyingConnection(connect(*a, **k), at),
        )
        try:
            advance(folder, log, "shadow", portion)
        except Killed:
            assert dump(folder) in states
        else:
            break
        finally:
            monkeypatch.undo()
        found = advance(folder, log, "shadow", portion)
        assert found.seen.plain() == recount(log, "shadow").plain()
    else:
        pytest.fail("it never came to its end")


def states_between(folder: Path, log: Log, portion: int) -> Iterator[list[list[Any]]]:
    """The file after each of a pass's transactions."""
    found: list[list[list[Any]]] = []
    save = count_store.save

    def saved(db: sqlite3.Connection, state: Any) -> None:
        save(db, state)
        db.execute("COMMIT")
        found.append(dump(folder))
        db.execute("BEGIN IMMEDIATE")

    with pytest.MonkeyPatch.context() as patch:
        subject = subject_of("shadow")
        path = count_cache._path(folder, "fraud", subject)
        count_cache.sqlite.connect(path, tables=count_store.TABLES).close()
        found.append(dump(folder))
        patch.setattr(count_store, "save", saved)
        advance(folder, log, "shadow", portion)
    yield from found


def test_only_what_is_new_is_read(tmp_path: Path) -> None:
    log = Log(table(canary_rows(400, 25, generation=1, version=2)), complete_ms=10**9)
    log.reached["gateway-1"] = 390
    advance(tmp_path, log, "canary")
    log.reads.clear()
    log.reached["gateway-1"] = 400
    assert advance(tmp_path, log, "canary").seen.records == 400
    assert sum(log.reads) == 10
    log.reads.clear()
    advance(tmp_path, log, "canary")
    assert log.reads == []


def test_a_pass_takes_as_many_steps_in_a_file_of_eight_times_as_many_decisions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's own steps, which no other work on the machine changes; 100 records are new."""
    steps: list[int] = []
    connect = sqlite.connect

    def counted(*args: Any, **options: Any) -> sqlite3.Connection:
        db = connect(*args, **options)
        db.set_progress_handler(lambda: steps.append(100), 100)
        return db

    def of_a_pass(before: int) -> int:
        rows = canary_rows(before + 100, 25, generation=1, version=2)
        wall = [row | {"recorded_ms": 250 * n, "latency_us": 4000 + n % 50}
                for n, row in enumerate(rows)]  # fmt: skip
        log = Log(table(wall), complete_ms=10**9)
        log.reached["gateway-1"] = before
        advance(tmp_path / str(before), log, "canary")
        log.reached.clear()
        steps.clear()
        assert advance(tmp_path / str(before), log, "canary").seen.records == before + 100
        return sum(steps)

    monkeypatch.setattr(sqlite, "connect", counted)
    few, many = of_a_pass(1_900), of_a_pass(15_900)  # 2,000 stretches of wall time in both
    assert few > 10_000
    assert many <= 1.2 * few


def test_a_writer_that_stands_still_does_not_make_passes_count_everything_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(count_cache, "MOST_WAITING", 50)
    log = Log(table(canary_rows(400, 25, generation=1, version=2)), complete_ms=1100)
    log.reached["gateway-1"] = 140
    found = advance(tmp_path, log, "canary")
    assert (found.seen.records, found.complete.records) == (140, 101)
    log.reached["gateway-1"] = 400
    found = advance(tmp_path, log, "canary")
    assert found.complete is found.seen
    assert found.complete.extent.until_event_ms == 1399  # nobody has promised that yet


def test_a_damaged_file_or_one_of_another_log_is_counted_again(tmp_path: Path) -> None:
    log = Log(table(canary_rows(60, 25, generation=1, version=2)), complete_ms=10**9)
    advance(tmp_path, log, "canary")
    (path,) = tmp_path.rglob("*.db")
    path.write_bytes(b"no database" * 1000)
    assert advance(tmp_path, log, "canary").seen.records == 60
    put_back = Log(table(canary_rows(40, 25, generation=1, version=2)), complete_ms=10**9)
    assert advance(tmp_path, put_back, "canary").seen.records == 40


def test_looks_at_once_wait_for_one_another_and_lose_nothing(tmp_path: Path) -> None:
    log = Log(table(canary_rows(600, 25, generation=1, version=2)), complete_ms=10**9)
    subject = subject_of("canary")
    with ThreadPoolExecutor(3) as pool:
        asked = [
            pool.submit(count, tmp_path, log, "fraud", subject, portion=50)  # type: ignore[arg-type]
            for _ in range(6)
        ]
        found = [future.result() for future in asked]
    assert {c.seen.fingerprint for c in found} == {recount(log, "canary").fingerprint}
    assert sum(log.reads) == 600, "each record was read once"


def test_a_look_at_an_earlier_generation_deletes_nothing_of_a_later_one(tmp_path: Path) -> None:
    log = Log(table(canary_rows(40, 25, generation=2, version=2)), complete_ms=10**9)
    for generation in (2, 1):
        count(tmp_path, log, "fraud", Subject(generation, "canary", 2, WITHIN_US))  # type: ignore[arg-type]
    assert len(list(tmp_path.rglob("canary-2-*.db"))) == 1


def test_files_of_earlier_generations_are_deleted(tmp_path: Path) -> None:
    log = Log(table(canary_rows(40, 25, generation=1, version=2)), complete_ms=10**9)
    advance(tmp_path, log, "canary")
    advance(tmp_path, log, "champion")
    subject = Subject(2, "canary", 2, WITHIN_US)
    count(tmp_path, log, "fraud", subject, log.watermarks())  # type: ignore[arg-type]
    names = sorted(p.name.rpartition("-")[0] for p in tmp_path.rglob("*.db"))
    assert names == ["canary-2", "champion-1"]
