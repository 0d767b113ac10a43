"""The offline table is a projection of the real decision log, sealed or not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.last_labels import LabelCounts
from mlplatform.decisions.records.port import Entry, RecordQuery
from mlplatform.decisions.records.record import Record
from mlplatform.learning.features import offline as offline_table
from mlplatform.learning.features.compile import EVERY, UnitSample
from mlplatform.learning.features.offline import OfflineTable, ProjectionCounts
from mlplatform.model.folders import load_definition
from mlplatform.runtime.units import DAY_MS

T_MS = 20_000 * DAY_MS


def record(kind: str, number: int, *, label: int | None = None, model: str = "fraud") -> Entry:
    request = {"customer_id": -number, "terminal_id": 2, "amount": 1.5 * number}
    return Entry(
        Record(
            kind=kind,  # type: ignore[arg-type]
            decision_id=f"d{number}",
            model=model,
            event_ms=T_MS + number * 1000,
            recorded_ms=T_MS,
            label=label,
            payload={"request": request, "features": {}} if kind == "decision" else {},
        )
    )


@pytest.fixture
def log(tmp_path: Path) -> SqliteDecisionLog:
    return SqliteDecisionLog(tmp_path / "decisions")


def stored(offline: OfflineTable) -> list[tuple[str, int, float]]:
    rows = offline.requests().project("request_id, customer_id, amount").order("request_id")
    return rows.fetchall()


def test_records_become_rows_once_before_and_after_sealing(
    tmp_path: Path, log: SqliteDecisionLog
) -> None:
    offline = OfflineTable(tmp_path / "offline", load_definition("fraud"))
    log.append("a", [record("decision", 1), record("shadow", 1), record("label", 1, label=1)])
    log.append("b", [record("decision", 2), record("decision", 3, model="other")])
    assert offline.project(log) == ProjectionCounts(requests=2, labels=1, voids=0)
    log.append("a", [record("decision", 4)])
    log.seal()
    assert offline.project(log) == ProjectionCounts(requests=1, labels=0, voids=0)
    assert offline.project(log) == ProjectionCounts(requests=0, labels=0, voids=0)
    log.append("b", [record("void", 2)])
    assert offline.project(log).voids == 1
    assert stored(offline) == [("d1", -1, 1.5), ("d4", -4, 6.0)]
    labelled = offline.labelled_requests(T_MS, T_MS + DAY_MS, T_MS + DAY_MS)
    assert labelled.column("label").to_pylist() == [1, None]
    times = labelled.column("event_time").cast(pa.int64()).to_pylist()
    assert times == [(T_MS + n * 1000) * 1000 for n in (1, 4)]


@pytest.mark.parametrize("died", [0, 1, 2])
def test_many_records_are_read_in_portions_and_a_killed_run_goes_on(
    tmp_path: Path, log: SqliteDecisionLog, monkeypatch: pytest.MonkeyPatch, died: int
) -> None:
    """It is killed before its next part; what it had written stays, and nothing comes twice."""
    monkeypatch.setattr(offline_table, "PORTION", 5)
    monkeypatch.setattr(offline_table, "PART_RECORDS", 12)
    for writer in ("a", "b"):
        first = 100 * (writer == "b")
        log.append(writer, [record("decision", first + n) for n in range(1, 21)])
        log.append(writer, [record("label", first + n, label=1) for n in range(1, 4)])
    log.append("a", [record("void", 103)])
    offline = OfflineTable(tmp_path / "offline", load_definition("fraud"))
    kill_after(died, offline, log)
    held = rows_of(offline)

    counts = offline.project(log)

    assert held == 20 * died
    assert counts.requests + counts.labels + counts.voids == 47 - held
    assert rows_of(offline) == 47
    assert len(stored(offline)) == 39
    assert offline.label_counts(T_MS, T_MS + DAY_MS, T_MS + DAY_MS) == LabelCounts(39, 5, 5)
    assert offline.position() == {"a": 24, "b": 23}


def kill_after(parts: int, offline: OfflineTable, log: SqliteDecisionLog) -> None:
    """Project until so many parts are written; the next read of the log is the end."""

    class Killed(Exception):
        pass

    def read(query: RecordQuery) -> pa.Table:
        if len(list(offline.folder.glob("parts/[0-9]*"))) == parts:
            raise Killed
        return log.read(query)

    with pytest.raises(Killed):
        offline.project(SimpleNamespace(read=read))  # type: ignore[arg-type]


def rows_of(offline: OfflineTable) -> int:
    files = offline.folder.glob("parts/[0-9]*/*/*.parquet")
    return sum(pq.read_metadata(file).num_rows for file in files)


def test_a_share_of_the_customers_is_taken_with_all_their_requests(tmp_path: Path) -> None:
    offline = OfflineTable(tmp_path / "offline", load_definition("fraud"))
    customers = [n % 300 for n in range(3000)]
    offline.import_history(history(customers), b"k" * 32)

    def read(share: float) -> set[int]:
        rows = offline.requests(sample=UnitSample(share)).project("customer_id").fetchall()
        found = {customer for (customer,) in rows}
        assert len(rows) == 10 * len(found)
        return found

    assert offline.sample_of(T_MS, T_MS + DAY_MS, 3000) == EVERY
    assert offline.sample_of(0, T_MS, 1500) == EVERY
    half = offline.sample_of(T_MS, T_MS + DAY_MS, 1505)
    assert (0.4 < half.share < 0.6, half.split) == (True, ())
    every, some, tenth = (read(share) for share in (1.0, half.share, 0.1))
    assert tenth < some < every
    assert (len(every), len(some)) == (300, 150)
    assert 15 <= len(tenth) <= 46
    labelled = offline.labelled_requests(T_MS, T_MS + DAY_MS, T_MS + 10 * DAY_MS, UnitSample(0.1))
    assert set(labelled["customer_id"].to_pylist()) == tenth


@pytest.mark.parametrize("others", [0, 1000, 20_000])
def test_of_a_customer_with_very_many_requests_a_share_is_taken(
    tmp_path: Path, others: int
) -> None:
    """Wherever its lot lies, the limit holds, and it is reached."""
    offline = OfflineTable(tmp_path / "offline", load_definition("fraud"))
    offline.import_history(history([7] * 9000 + list(range(100, 100 + others))), b"k" * 32)
    (heavy,) = offline.requests(to_ms=T_MS + 1).project("customer_id").fetchall()[0]

    sample = offline.sample_of(T_MS, T_MS + DAY_MS, 4000)

    found = offline.requests(sample=sample)
    own = len(found.filter(f"customer_id = {heavy}"))
    assert sample.split == (heavy,)
    assert 3900 <= len(found) <= 4000
    assert own == pytest.approx(sample.share * 9000, rel=0.1)
    assert sample.share == pytest.approx(4000 / (9000 + others), rel=0.1)


def history(customers: list[int]) -> pa.Table:
    """A payment of each of these customers, in order."""
    count, us = len(customers), pa.timestamp("us")
    at = pa.array([(T_MS + n) * 1000 for n in range(count)], us)
    return pa.table(
        {
            "request_id": [f"h{n}" for n in range(count)],
            "event_time": at,
            "customer_id": pa.array(customers, pa.int64()),
            "terminal_id": pa.array([1] * count, pa.int64()),
            "amount": pa.array([2.5] * count),
            "label": pa.array([None] * count, pa.int8()),
            "label_time": pa.array([None] * count, us),
        }
    )
