"""A pass of the drift watch does the next thing, and done twice changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mlplatform.learning.features.dataset import window
from mlplatform.model.folders import load_definition
from mlplatform.rollouts.drift import job
from mlplatform.rollouts.drift.incidents import Incident
from mlplatform.rollouts.drift.job import Observation
from mlplatform.rollouts.drift.retrain import Page, Retrain, Wait
from mlplatform.rollouts.drift.sqlite import SqliteIncidents
from mlplatform.rollouts.drift.verdict import Drifted, Health, Steady, Undecided, WindowVerdict

DAY_MS = 86_400_000
FRAUD = load_definition("fraud")


@pytest.fixture
def incidents(tmp_path: Path) -> SqliteIncidents:
    return SqliteIncidents(tmp_path / "rollouts.db")


def seen(health: Health, champion: int = 1) -> Observation:
    verdicts = tuple(
        WindowVerdict(day * DAY_MS, (day + 1) * DAY_MS, 5000, health, ("because",))
        for day in range(3)
    )
    verdict = {
        Health.UNHEALTHY: Drifted(0, ("3 of 3",)),
        Health.HEALTHY: Steady(("0 of 3",)),
        Health.INCONCLUSIVE: Undecided(("0 of 3",)),
    }[health]
    return Observation(champion, 3 * DAY_MS, (), verdicts, verdict)


def keep(
    incidents: SqliteIncidents, health: Health, champion: int = 1, wall_ms: int = 1
) -> Incident | None:
    return job.keep_incident(incidents, "fraud", seen(health, champion), wall_ms=wall_ms)


def act(incidents: SqliteIncidents, incident: Incident, decision: object, wall_ms: int) -> object:
    return job.act(incidents, incident, decision, holder="p", claim_s=600, wall_ms=wall_ms)  # type: ignore[arg-type]


def opened(incidents: SqliteIncidents) -> Incident:
    incident = keep(incidents, Health.UNHEALTHY)
    assert incident is not None
    return incident


def test_a_drifted_verdict_opens_one_incident_however_often_it_is_seen(
    incidents: SqliteIncidents,
) -> None:
    first = opened(incidents)
    assert keep(incidents, Health.UNHEALTHY, wall_ms=2) == first
    assert len(incidents.list()) == 1
    assert [w["health"] for w in first.found.evidence["windows"]] == ["UNHEALTHY"] * 3


@pytest.mark.parametrize("health", [Health.HEALTHY, Health.INCONCLUSIVE])
def test_without_a_drifted_verdict_there_is_no_incident(
    incidents: SqliteIncidents, health: Health
) -> None:
    assert keep(incidents, health) is None


def test_an_incident_stays_while_nothing_is_known(incidents: SqliteIncidents) -> None:
    assert keep(incidents, Health.UNHEALTHY) == keep(incidents, Health.INCONCLUSIVE)


def test_an_untouched_incident_ends_when_all_windows_are_healthy_again(
    incidents: SqliteIncidents,
) -> None:
    opened(incidents)
    assert keep(incidents, Health.HEALTHY) is None
    assert incidents.list()[0].note == "the last 3 windows look like the profile again"


def test_a_claimed_incident_does_not_end_by_itself(incidents: SqliteIncidents) -> None:
    act(incidents, opened(incidents), Retrain(7, "enough"), wall_ms=5)
    assert keep(incidents, Health.HEALTHY) is not None


def test_another_champion_ends_an_incident_and_may_begin_its_own(
    incidents: SqliteIncidents,
) -> None:
    first = opened(incidents)
    second = keep(incidents, Health.UNHEALTHY, champion=2)
    assert second is not None
    assert second.found.champion == 2
    closed = incidents.list()[0]
    assert (closed.id, closed.note) == (first.id, "version 2 replaced version 1")


def test_while_a_claim_holds_the_same_event_comes_again(incidents: SqliteIncidents) -> None:
    incident = opened(incidents)
    first = act(incidents, incident, Retrain(7, "enough"), wall_ms=1000)
    again = act(incidents, incident, Retrain(8, "enough"), wall_ms=2000)
    assert isinstance(first, dict)
    assert isinstance(again, dict)
    assert first["id"] == again["id"]
    assert first["resource"]["prefect.resource.id"] == "mlplatform.model.fraud"
    assert first["payload"] == {
        "model": "fraud",
        "traceparent": "",  # whoever emits it says where
        "incident": incident.id,
        "claim": 1,
        "as_of": "1970-01-01T00:00:00.007000+00:00",
        "reason": "enough",
    }


def test_after_a_claim_expired_the_event_is_a_new_one(incidents: SqliteIncidents) -> None:
    incident = opened(incidents)
    first = act(incidents, incident, Retrain(7, "enough"), wall_ms=1000)
    second = act(incidents, incident, Retrain(7, "enough"), wall_ms=601_000)
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert first["id"] != second["id"]
    assert second["payload"]["claim"] == 2


def test_an_answered_incident_makes_no_event(incidents: SqliteIncidents) -> None:
    incident = opened(incidents)
    act(incidents, incident, Retrain(7, "enough"), wall_ms=1000)
    incidents.answer(incident.id, 1, version=2, note="registered", now_ms=2000)
    assert act(incidents, incident, Retrain(7, "enough"), wall_ms=999_000) is None


def test_waiting_makes_no_event_and_paging_the_same_one(incidents: SqliteIncidents) -> None:
    incident = opened(incidents)
    assert act(incidents, incident, Wait("labels"), wall_ms=1) is None
    first = act(incidents, incident, Page("look"), wall_ms=1)
    again = act(incidents, incident, Page("look"), wall_ms=2)
    assert isinstance(first, dict)
    assert isinstance(again, dict)
    assert first["id"] == again["id"]
    assert first["event"] == job.PAGE_EVENT


class Offline:
    """As many frauds as one asks for, and what one asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int]] = []

    def labelled_requests(self, from_ms: int, to_ms: int, as_of_ms: int) -> pa.Table:
        self.asked.append((from_ms, to_ms, as_of_ms))
        return pa.table({"label": pa.array([1] * 1000, pa.int8())})


@pytest.mark.parametrize("extra_ms", [0, DAY_MS - 1])
def test_what_counts_is_what_a_retrain_as_of_now_would_fit_on(
    incidents: SqliteIncidents, extra_ms: int
) -> None:
    offline, now_ms = Offline(), 20 * DAY_MS + extra_ms
    found = job.decide(
        opened(incidents), offline, FRAUD, now_ms=now_ms, wall_ms=1, answer_lives=True
    )
    assert offline.asked == [(0, window(FRAUD, now_ms).holdout_from_ms, now_ms)]
    assert found == Retrain(now_ms, found.reason)


def test_evidence_holds_numbers_only(incidents: SqliteIncidents) -> None:
    assert not any(isinstance(v, np.generic) for v in opened(incidents).found.evidence.values())
