"""What does not count in the window of a rollout: raw calls without a customer, named versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry, RecordQuery
from mlplatform.decisions.records.record import Kind, Record
from mlplatform.rollouts.journal.basis_evidence import Role
from mlplatform.rollouts.verdicts.facts import COPY, Subject, facts


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
    found = facts(log.read(RecordQuery(model="fraud")), Subject(4, role, version=1))
    log.close()
    assert sorted(found.decision_id) == counted
    assert found.decision_id[found.has(COPY)].tolist() == [i for i in counted if i == "d3"]


@pytest.mark.parametrize("role", ["canary", "champion", "shadow"])
@pytest.mark.parametrize("version", [1, 2])
def test_a_request_that_names_its_version_is_no_arms(
    tmp_path: Path, role: Role, version: int
) -> None:
    """A caller who names a version chooses its requests: there is no draw, nothing to compare."""
    log = SqliteDecisionLog(tmp_path)
    kinds: tuple[Kind, ...] = ("decision", "inference")
    records = [
        Record(
            kind=kind, decision_id=f"d-{kind}", model="fraud", event_ms=1, recorded_ms=1,
            generation=4, arm="named", answered_by="champion", version=version, unit=7, bucket=1,
            score=0.9, decision="decline",
        )
        for kind in kinds
    ]  # fmt: skip
    log.append("gw", [Entry(record) for record in records])
    found = facts(log.read(RecordQuery(model="fraud")), Subject(4, role, version=1))
    log.close()
    assert len(found) == 0
