"""A request that waits to be decided is counted nowhere; its decision is, once."""

from __future__ import annotations

from pathlib import Path

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Record
from mlplatform.learning.features.offline import OfflineTable, ProjectionCounts
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.rollouts.drift import windows
from mlplatform.rollouts.drift.windows import ChampionTenure
from mlplatform.runtime.units import DAY_MS

FRAUD = load_definition("fraud")
PLAN = windows.drift_plan(FRAUD, load_views(model_folder("fraud")), FRAUD.inputs)


def entry(kind: str, number: int) -> Entry:
    payload = {
        "request": {"customer_id": -number, "terminal_id": 2, "amount": 1.5},
        "features": {},
    }
    record = Record(
        kind=kind,  # type: ignore[arg-type]
        decision_id=f"d{number}",
        model="fraud",
        event_ms=number * 1000,
        recorded_ms=0,
        payload=payload,
    )
    return Entry(record)


def test_training_and_drift_see_the_decision_alone(tmp_path: Path) -> None:
    log = SqliteDecisionLog(tmp_path / "decisions", lambda: 0)
    offline = OfflineTable(tmp_path / "offline", FRAUD)
    log.append("a", [entry("accepted", n) for n in range(1, 6)])
    assert offline.project(log) == ProjectionCounts(requests=0, labels=0, voids=0)

    def seen() -> list[int]:
        found = windows.read_windows(log, PLAN, FRAUD, ChampionTenure(1, 0), DAY_MS)
        return [len(window.inputs["amount"]) for window in found]

    assert sum(seen()) == 0
    log.append("b", [entry("decision", 3)])
    assert offline.project(log) == ProjectionCounts(requests=1, labels=0, voids=0)
    assert sum(seen()) == 1
    log.close()
