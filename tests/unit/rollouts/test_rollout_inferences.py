"""Raw calls in the window of a rollout: those whose caller named the customer, and no others."""

from __future__ import annotations

from pathlib import Path

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Record
from mlplatform.rollouts.passes.observe import _records


def test_a_raw_call_counts_for_a_rollout_only_with_its_unit(tmp_path: Path) -> None:
    log = SqliteDecisionLog(tmp_path)
    kinds = [("decision", 1), ("inference", 2), ("inference", None), ("shadow", 1)]
    entries = [
        Entry(
            Record(
                kind=kind,
                decision_id=f"d{number}",
                model="fraud",
                event_ms=number,
                recorded_ms=number,
                generation=4,
                arm="champion",
                unit=unit,
            )
        )
        for number, (kind, unit) in enumerate(kinds)
    ]
    log.append("gw", entries)
    table = _records(log, "fraud", 4)
    found = sorted(zip(table["decision_id"].to_pylist(), table["kind"].to_pylist(), strict=True))
    log.close()
    assert found == [("d0", "decision"), ("d1", "decision"), ("d3", "shadow")]
