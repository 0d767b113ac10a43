"""Raw calls in the window of a rollout: those whose caller named the customer, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry, Span
from mlplatform.decisions.records.record import Record
from mlplatform.rollouts.verdicts.facts import COPY, Role, Subject, facts


@pytest.mark.parametrize(
    ("role", "counted"),
    [("canary", ["d0", "d1"]), ("champion", ["d0", "d1"]), ("shadow", ["d0", "d3"])],
)
def test_a_raw_call_counts_for_a_rollout_only_with_its_unit_and_has_no_copy(
    tmp_path: Path, role: Role, counted: list[str]
) -> None:
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
                version=1,
                unit=unit,
            )
        )
        for number, (kind, unit) in enumerate(kinds)
    ]
    log.append("gw", entries)
    found = facts(log.read(Span(model="fraud")), Subject(4, role, version=1))
    log.close()
    assert sorted(found.decision_id) == counted
    assert found.decision_id[found.has(COPY)].tolist() == [i for i in counted if i == "d3"]
