"""The offline table is a projection of the real decision log, sealed or not."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Record
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
