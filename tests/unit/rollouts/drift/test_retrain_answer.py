"""What a retrain comes to is written into the incident that asked for it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlplatform.learning.registry.versions import Rejection
from mlplatform.learning.training import retrain
from mlplatform.operations.actions import training as job
from mlplatform.rollouts.drift.incidents import Incident, IncidentFinding
from mlplatform.rollouts.drift.sqlite import SqliteIncidents
from mlplatform.runtime.errors import GateFailed, Unavailable

FOUND = IncidentFinding("fraud", "drift", 5000, 3000, 1, {"reasons": []})
REJECTED = Rejection("fraud", "a" * 64, "run-1", ("quality: the champion is better",))


@pytest.fixture
def incidents(tmp_path: Path) -> SqliteIncidents:
    return SqliteIncidents(tmp_path / "rollouts.db")


@pytest.fixture
def claimed(incidents: SqliteIncidents) -> Incident:
    opened = incidents.open(FOUND, now_ms=1)
    incidents.claim(opened.id, "drift-watch", until_ms=1000, now_ms=2)
    return opened


@pytest.fixture
def platform(incidents: SqliteIncidents) -> Any:
    clock = SimpleNamespace(wall_ms=lambda: 3)
    return SimpleNamespace(incidents=incidents, clock=clock, registry=None)


def test_a_failed_gate_ends_the_flow_and_answers_with_no_version(
    platform: Any, claimed: Incident, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrain, "register", lambda *_, **__: REJECTED)
    report: Any = SimpleNamespace(passed=False)
    failed = job.GateOutcome(report, None)
    with (
        pytest.raises(GateFailed, match="quality: the champion is better"),
        job.incident_answer(platform, "fraud", claimed.id, 1) as answer,
    ):
        answer(job.register(platform, None, failed, author="ana").version, "")
    (kept,) = platform.incidents.list("fraud")
    assert kept.answer is None
    assert "quality: the champion is better" in kept.note


def test_a_version_answers_the_incident(platform: Any, claimed: Incident) -> None:
    with job.incident_answer(platform, "fraud", claimed.id, 1) as answer:
        answer(2, "")
    (kept,) = platform.incidents.list("fraud")
    assert (kept.state, kept.answer) == ("answered", 2)


def test_the_champion_once_more_is_no_answer(platform: Any, claimed: Incident) -> None:
    with job.incident_answer(platform, "fraud", claimed.id, 1) as answer:
        answer(1, "nothing is new: this made version 1 again")
    (kept,) = platform.incidents.list("fraud")
    assert (kept.state, kept.answer) == ("answered", None)
    assert kept.note == "nothing is new: this made version 1 again"


def test_a_retrain_that_broke_leaves_its_claim_to_expire(platform: Any, claimed: Incident) -> None:
    with pytest.raises(Unavailable), job.incident_answer(platform, "fraud", claimed.id, 1):
        raise Unavailable("MLflow is away")
    (kept,) = platform.incidents.list("fraud")
    assert (kept.state, kept.answer) == ("claimed", None)
