"""A drift check takes the steps that are due, and done twice changes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mlplatform.decisions.records.last_labels import LabelCounts
from mlplatform.learning.training_sets.dataset import window
from mlplatform.model.folders import load_definition
from mlplatform.model.routes import Routes, VariantTest, no_routes
from mlplatform.operations.prefect_client import events
from mlplatform.rollouts.drift import execute
from mlplatform.rollouts.drift.execute import PersonRequest, RetrainRequest, ask
from mlplatform.rollouts.drift.faults import Fault
from mlplatform.rollouts.drift.incidents import DRIFT, FAULT, PERFORMANCE, Incident
from mlplatform.rollouts.drift.measures import Shift
from mlplatform.rollouts.drift.next_step import (
    DriftStep,
    IncidentStatus,
    Observation,
    OpenRollout,
    next_step,
)
from mlplatform.rollouts.drift.observe import incident_status
from mlplatform.rollouts.drift.performance import PerformanceVerdict
from mlplatform.rollouts.drift.ports import DriftPorts
from mlplatform.rollouts.drift.retrain import Page, Retrain, RetrainDecision, Wait
from mlplatform.rollouts.drift.sqlite import SqliteIncidents
from mlplatform.rollouts.drift.verdict import (
    DriftFinding,
    Health,
    NoDrift,
    UnclearDrift,
    WindowVerdict,
)
from mlplatform.runtime.errors import Busy
from mlplatform.runtime.units import DAY_MS

FRAUD = load_definition("fraud")


def seen(health: Health, champion: int = 1) -> Observation:
    verdicts = tuple(
        WindowVerdict(day * DAY_MS, (day + 1) * DAY_MS, 5000, health, ("because",))
        for day in range(3)
    )
    verdict = {
        Health.UNHEALTHY: DriftFinding(0, ("3 of 3",)),
        Health.HEALTHY: NoDrift(("0 of 3",)),
        Health.INCONCLUSIVE: UnclearDrift(("0 of 3",)),
    }[health]
    return Observation(champion, 3 * DAY_MS, (), verdicts, verdict)


@dataclass
class Offline:
    """As many frauds as one asks for, and what one asked."""

    frauds: int = 1000
    asked: list[tuple[int, int, int]] = field(default_factory=list)
    projected: int = 0

    def project(self, log: object) -> None:
        self.projected += 1

    def label_counts(self, from_ms: int, to_ms: int, as_of_ms: int) -> LabelCounts:
        self.asked.append((from_ms, to_ms, as_of_ms))
        return LabelCounts(self.frauds, self.frauds, self.frauds)


@dataclass
class Clock:
    wall: int = 1

    def event_ms(self) -> int:
        return 20 * DAY_MS

    def wall_ms(self) -> int:
        return self.wall


@dataclass
class Version:
    version: int


@dataclass
class Rollout:
    challenger: Version
    phase: str


@dataclass
class Rollouts:
    """The part of a journal that a check asks about answers."""

    states: list[Rollout] = field(default_factory=list)
    present: Routes = field(default_factory=lambda: no_routes("fraud"))

    def routes(self, model: str) -> Routes:
        return self.present

    def active(self, model: str, *, finished: bool) -> Sequence[Rollout]:
        return self.states


@dataclass
class OfDrift:
    """What a check says of one kind of incident."""

    incident: Incident | None = None
    opened: bool = False
    decision: RetrainDecision | None = None
    request: RetrainRequest | PersonRequest | None = None


class Checks:
    """Checks over one home folder, whose observations the test says."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.incidents = SqliteIncidents(folder / "rollouts.db")
        self.offline, self.clock, self.rollouts = Offline(), Clock(), Rollouts()
        self.opened: list[int] = []
        self.busy, self.refusal, self.trains = False, "", True
        self._sees = seen(Health.INCONCLUSIVE)
        monkeypatch.setattr(execute, "champion_of", lambda model, ports: None)
        monkeypatch.setattr(execute, "observe", lambda *_: self._sees)

    @property
    def ports(self) -> DriftPorts:
        return DriftPorts(
            log=None,  # type: ignore[arg-type]
            counted=Path("nothing is kept here"),
            incidents=self.incidents,
            rollouts=self.rollouts,  # type: ignore[arg-type]
            offline=self.offline,
            clock=self.clock,
            views=(),
            bundle=lambda arm: pytest.fail("no bundle is read here"),
            open_rollout=self._open,
            trains=self.trains,
        )

    def run(self, health: Health, champion: int = 1, wall_ms: int = 1) -> OfDrift:
        return self.see(seen(health, champion), wall_ms=wall_ms)

    def see(self, observation: Observation, *, kind: str = DRIFT, wall_ms: int = 1) -> OfDrift:
        self._sees, self.clock.wall = observation, wall_ms
        check = execute.run_check(FRAUD, self.ports, holder="p")
        found = [f for f in check.incidents if f.incident.found.kind == kind]
        if not found:
            return OfDrift()
        (one,) = found
        return OfDrift(one.incident, one.opened, one.decision, one.request)

    def _open(self, version: int) -> str | None:
        if self.busy:
            raise Busy("another rollout")
        if self.refusal:
            return self.refusal
        self.opened.append(version)
        self.rollouts.states.append(Rollout(Version(version), "validated"))
        return None


@pytest.fixture
def checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checks:
    made = Checks(tmp_path, monkeypatch)
    made.offline.frauds = 0
    return made


def opened(checks: Checks) -> Incident:
    incident = checks.run(Health.UNHEALTHY).incident
    assert incident is not None
    return incident


def test_a_drifted_verdict_opens_one_incident_however_often_it_is_seen(checks: Checks) -> None:
    first, again = checks.run(Health.UNHEALTHY), checks.run(Health.UNHEALTHY, wall_ms=2)
    assert (first.opened, again.opened) == (True, False)
    assert first.incident == again.incident
    assert len(checks.incidents.list()) == 1
    assert first.incident is not None
    assert [w["health"] for w in first.incident.found.evidence["windows"]] == ["UNHEALTHY"] * 3


@pytest.mark.parametrize("health", [Health.HEALTHY, Health.INCONCLUSIVE])
def test_without_a_drifted_verdict_there_is_no_incident(checks: Checks, health: Health) -> None:
    check = checks.run(health)
    assert (check.incident, check.request, checks.offline.projected) == (None, None, 0)


def test_an_incident_stays_while_nothing_is_known(checks: Checks) -> None:
    assert opened(checks) == checks.run(Health.INCONCLUSIVE).incident


def test_an_untouched_incident_ends_when_all_windows_are_healthy_again(checks: Checks) -> None:
    opened(checks)
    assert checks.run(Health.HEALTHY).incident is None
    assert checks.incidents.list()[0].note == "the last 3 windows look like the profile again"


def test_a_claimed_incident_does_not_end_by_itself(checks: Checks) -> None:
    opened(checks)
    checks.offline.frauds = 1000
    assert isinstance(checks.run(Health.UNHEALTHY).request, RetrainRequest)
    assert checks.run(Health.HEALTHY).incident is not None


def test_another_champion_ends_an_incident_and_may_begin_its_own(checks: Checks) -> None:
    first = opened(checks)
    second = checks.run(Health.UNHEALTHY, champion=2).incident
    assert second is not None
    assert second.found.champion == 2
    closed = checks.incidents.list()[0]
    assert (closed.id, closed.note) == (first.id, "version 2 replaced version 1")


def test_the_version_that_answers_gets_its_rollout_once(checks: Checks) -> None:
    incident = opened(checks)
    ask(checks.ports, incident, Retrain(7, "enough"), holder="p", claim_s=600, wall_ms=1)
    checks.incidents.answer(incident.id, 1, version=2, note="registered", now_ms=2)
    checks.busy = True
    busy = checks.run(Health.UNHEALTHY)
    checks.busy = False
    after, again = checks.run(Health.UNHEALTHY), checks.run(Health.UNHEALTHY)
    assert checks.opened == [2]
    for check in (busy, after, again):
        assert check.decision == Wait(
            "version 2 was trained for it; its rollout shows whether it helps"
        )


def test_an_answer_whose_rollout_is_refused_calls_a_person(checks: Checks) -> None:
    incident = opened(checks)
    ask(checks.ports, incident, Retrain(7, "enough"), holder="p", claim_s=600, wall_ms=1)
    checks.incidents.answer(incident.id, 1, version=2, note="registered", now_ms=2)
    checks.refusal = "shadow can't decide in 168 h"
    refused = checks.run(Health.UNHEALTHY)
    assert isinstance(refused.request, PersonRequest)
    assert "has no rollout: shadow can't decide" in str(refused.decision)
    checks.refusal = ""
    checks.run(Health.UNHEALTHY)
    assert checks.opened == [2], "it is opened once its plan can decide"


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (None, OpenRollout(2)),
        ("", Wait("version 2 was trained for it; its rollout shows whether it helps")),
        ("no plan", Page("version 2 was trained for it, but has no rollout: no plan")),
    ],
)
def test_the_step_says_what_a_refused_rollout_means(
    checks: Checks, refusal: str | None, expected: DriftStep
) -> None:
    incident = opened(checks)
    ask(checks.ports, incident, Retrain(7, "enough"), holder="p", claim_s=600, wall_ms=1)
    checks.incidents.answer(incident.id, 1, version=2, note="registered", now_ms=2)
    (answered,) = checks.incidents.list()
    found = next_step(
        *(FRAUD, seen(Health.UNHEALTHY), DRIFT, answered, IncidentStatus()),
        wall_ms=3,
        refusal=refusal,
    )
    assert found == expected


def test_an_answer_that_was_rolled_back_calls_a_person(checks: Checks) -> None:
    incident = opened(checks)
    ask(checks.ports, incident, Retrain(7, "enough"), holder="p", claim_s=600, wall_ms=1)
    checks.incidents.answer(incident.id, 1, version=2, note="registered", now_ms=2)
    checks.rollouts.states.append(Rollout(Version(2), "rolled_back"))
    assert isinstance(checks.run(Health.UNHEALTHY).request, PersonRequest)


def asked(checks: Checks, incident: Incident, decision: Any, wall_ms: int) -> Any:
    found = ask(checks.ports, incident, decision, holder="p", claim_s=600, wall_ms=wall_ms)
    return None if found is None else events.event_of(found, wall_ms)


def test_while_a_claim_holds_the_same_event_comes_again(checks: Checks) -> None:
    incident = opened(checks)
    first = asked(checks, incident, Retrain(7, "enough"), wall_ms=1000)
    again = asked(checks, incident, Retrain(7, "enough"), wall_ms=2000)
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


def test_nobody_is_asked_to_retrain_a_ready_file(checks: Checks) -> None:
    """A run would be refused each time, and the incident would be given up without a word of it."""
    checks.trains = False
    checks.offline.frauds = 10_000
    found = checks.run(Health.UNHEALTHY)
    assert found.incident is not None
    assert (found.incident.state, found.incident.claim) == ("open", 0)
    assert isinstance(found.request, PersonRequest)
    assert "`mlplatform validate fraud` makes a version of it" in found.request.reason


def test_after_a_claim_expired_the_event_is_a_new_one(checks: Checks) -> None:
    incident = opened(checks)
    first = asked(checks, incident, Retrain(7, "enough"), wall_ms=1000)
    second = asked(checks, incident, Retrain(7, "enough"), wall_ms=601_000)
    assert first["id"] != second["id"]
    assert second["payload"]["claim"] == 2


def test_the_ids_of_events_are_those_of_the_releases_before(checks: Checks) -> None:
    """A check that is repeated over an upgrade starts no second retrain."""
    retrain = RetrainRequest("fraud", "fraud-drift-1", 1, 7, "enough")
    person = PersonRequest("fraud", "fraud-drift-1", 3, "look")
    assert events.event_of(retrain, 1)["id"] == "a5675722-6507-5139-9bc4-d64834e65999"
    assert events.event_of(person, 1)["id"] == "75b13b21-bb1b-521c-afe7-a7c9ecec2612"


def test_an_answered_incident_makes_no_event(checks: Checks) -> None:
    incident = opened(checks)
    asked(checks, incident, Retrain(7, "enough"), wall_ms=1000)
    checks.incidents.answer(incident.id, 1, version=2, note="registered", now_ms=2000)
    assert asked(checks, incident, Retrain(7, "enough"), wall_ms=999_000) is None


def test_waiting_makes_no_event_and_paging_the_same_one(checks: Checks) -> None:
    incident = opened(checks)
    assert asked(checks, incident, Wait("labels"), wall_ms=1) is None
    first = asked(checks, incident, Page("look"), wall_ms=1)
    assert first["id"] == asked(checks, incident, Page("look"), wall_ms=2)["id"]
    assert first["event"] == events.PAGE_EVENT


@pytest.mark.parametrize("extra_ms", [0, DAY_MS - 1])
def test_what_counts_is_what_a_retrain_as_of_now_would_fit_on(
    checks: Checks, extra_ms: int
) -> None:
    now_ms = 20 * DAY_MS + extra_ms
    incident = opened(checks)
    checks.offline.asked.clear()
    checks.offline.frauds = 1000
    found = incident_status(FRAUD, checks.ports, incident, now_ms)
    assert checks.offline.asked == [(0, window(FRAUD, now_ms).holdout_from_ms, now_ms)]
    assert found.matured.positives == 1000


BROKEN = Fault("amount", "amount is missing in 70.00 % of 5,000 payments; mend its source")
SOUND = Shift("amount", 5000, 0.01, 0.2, 0.01, 0.1, 0.0)


def of_data(*faults: Fault, day: int = 2) -> Observation:
    """A newest window with these faults, or without any."""
    start_ms = day * DAY_MS
    newest = WindowVerdict(
        start_ms,
        start_ms + DAY_MS,
        5000,
        Health.INCONCLUSIVE if faults else Health.HEALTHY,
        ("because",),
        shifts=() if faults else (SOUND,),
        faults=faults,
    )
    return Observation(1, start_ms + DAY_MS, (), (newest,), UnclearDrift(("0 of 3",)))


def test_a_data_fault_opens_its_own_incident_and_calls_a_person(checks: Checks) -> None:
    checks.offline.frauds = 1000
    found = checks.see(of_data(BROKEN), kind=FAULT)
    assert found.incident is not None
    assert (found.incident.id, found.opened) == ("fraud-data-fault-1", True)
    assert found.incident.found.evidence["reasons"] == [BROKEN.reason]
    assert isinstance(found.request, PersonRequest)
    assert "amount is missing" in found.request.reason
    assert checks.offline.projected == 0


def test_a_data_fault_ends_by_itself_on_the_day_on_which_the_data_is_whole(checks: Checks) -> None:
    checks.see(of_data(BROKEN), kind=FAULT)
    assert checks.see(of_data(day=3), kind=FAULT).incident is None
    (closed,) = checks.incidents.list()
    assert (closed.note, closed.ended_ms) == ("the data is whole again", 3 * DAY_MS)


def test_a_window_that_shows_nothing_does_not_end_a_data_fault(checks: Checks) -> None:
    checks.see(of_data(BROKEN), kind=FAULT)
    assert checks.see(seen(Health.INCONCLUSIVE), kind=FAULT).incident is not None


def test_while_the_data_is_broken_nothing_is_retrained(checks: Checks) -> None:
    checks.see(of_data(BROKEN), kind=FAULT)
    checks.offline.frauds = 1000
    waiting = checks.run(Health.UNHEALTHY)  # its windows say nothing of the data: it stays open
    assert waiting.request is None
    assert waiting.decision == Wait(
        "no retrain starts while fraud-data-fault-1 is open: it would learn from broken data",
        noted=True,
    )
    checks.run(Health.UNHEALTHY)
    kept = checks.incidents.list("fraud", closed=False)[1]
    assert [c.note for c in kept.changes][1:] == [waiting.decision.reason]


def dropped(health: Health = Health.UNHEALTHY) -> Observation:
    quiet = seen(Health.HEALTHY)
    verdict = PerformanceVerdict(
        health, ("recall fell",), DAY_MS if health is Health.UNHEALTHY else None
    )
    return dataclasses.replace(quiet, performance=verdict)


def test_a_drop_of_performance_is_an_incident_though_inputs_stand_still(checks: Checks) -> None:
    found = checks.see(dropped(), kind=PERFORMANCE)
    assert found.incident is not None
    assert found.incident.found.changed_ms == DAY_MS
    assert found.incident.found.evidence["reasons"] == ["recall fell"]
    checks.offline.frauds = 1000
    assert isinstance(checks.see(dropped(), kind=PERFORMANCE).request, RetrainRequest)


def test_labels_that_say_nothing_do_not_end_a_drop(checks: Checks) -> None:
    checks.see(dropped(), kind=PERFORMANCE)
    again = checks.see(dropped(Health.INCONCLUSIVE), kind=PERFORMANCE)
    assert again.incident is not None
    assert checks.see(dropped(Health.HEALTHY), kind=PERFORMANCE).incident is None


def test_one_change_that_shows_twice_is_answered_by_one_retrain(checks: Checks) -> None:
    checks.offline.frauds = 1000
    both = dataclasses.replace(seen(Health.UNHEALTHY), performance=dropped().performance)
    assert isinstance(checks.see(both).request, RetrainRequest)
    other = checks.see(both, kind=PERFORMANCE)
    assert (other.request, type(other.decision)) == (None, Wait)
    assert "fraud-drift-1 asked for a retrain on 1970-01-01" in other.decision.reason  # type: ignore[union-attr]


def test_a_drift_that_retrains_do_not_mend_calls_a_person(checks: Checks) -> None:
    checks.offline.frauds = 1000
    policy = FRAUD.drift
    for number in range(policy.retrain_budget):
        wall_ms = number * policy.retrain_cooldown_days * DAY_MS + 1
        found = checks.run(Health.UNHEALTHY, champion=number, wall_ms=wall_ms)
        assert isinstance(found.request, RetrainRequest), number
    wall_ms += policy.retrain_cooldown_days * DAY_MS
    last = checks.run(Health.UNHEALTHY, champion=policy.retrain_budget, wall_ms=wall_ms)
    assert isinstance(last.request, PersonRequest)
    assert "drift.retrain_budget" in last.request.reason


def test_while_a_test_runs_no_retrain_starts_and_no_answer_rolls_out(checks: Checks) -> None:
    incident = opened(checks)
    checks.offline.frauds = 1000
    test = VariantTest("fraud-variants-1", ())
    checks.rollouts.present = dataclasses.replace(checks.rollouts.present, test=test)
    found = checks.run(Health.UNHEALTHY)
    assert isinstance(found.decision, Wait)
    assert found.decision.reason == (
        "test fraud-variants-1 runs, and no version rolls out beside it: `mlplatform variants end"
        " fraud` ends it"
    )
    assert found.decision.noted
    assert found.request is None
    checks.rollouts.present = no_routes("fraud")
    assert isinstance(checks.run(Health.UNHEALTHY).decision, Retrain)
    checks.rollouts.present = dataclasses.replace(no_routes("fraud"), test=test)
    checks.incidents.answer(incident.id, 1, version=2, note="registered", now_ms=3)
    assert isinstance(checks.run(Health.UNHEALTHY).decision, Wait)
    assert checks.opened == []
    checks.rollouts.present = no_routes("fraud")
    checks.run(Health.UNHEALTHY)
    assert checks.opened == [2]
