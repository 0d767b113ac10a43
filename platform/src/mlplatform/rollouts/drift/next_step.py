"""The next step of a drift check and its reason: a pure function of the observations and the
incident."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mlplatform.model.definition import ModelDefinition
from mlplatform.model.rhythm import SCORE
from mlplatform.rollouts.drift import performance, verdict
from mlplatform.rollouts.drift.faults import Fault
from mlplatform.rollouts.drift.health import Health
from mlplatform.rollouts.drift.incidents import DRIFT, FAULT, PERFORMANCE, Incident, IncidentFinding
from mlplatform.rollouts.drift.performance import NOT_JUDGED, PerformanceVerdict
from mlplatform.rollouts.drift.retrain import (
    MaturedRequests,
    Page,
    Retrain,
    Retrains,
    Wait,
    retrain_when,
)
from mlplatform.rollouts.drift.tenure import MaturedTenure
from mlplatform.rollouts.drift.verdict import DriftFinding, DriftVerdict, Window, WindowVerdict
from mlplatform.rollouts.journal.state import Phase

NOTHING_MATURED: Final = MaturedRequests(0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """The evidence of the log by window, with the conclusions from it.

    Args:
        windows: sample of decisions of each window, for reports.
        performance: verdict by the labels that have matured under the champion.
        tenure: metrics of all matured days of the champion.
        score_word: word for the champion's scores in texts for people.
    """

    champion: int
    now_ms: int
    windows: tuple[Window, ...]
    verdicts: tuple[WindowVerdict, ...]
    verdict: DriftVerdict
    performance: PerformanceVerdict = NOT_JUDGED
    tenure: MaturedTenure | None = None
    score_word: str = SCORE

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Faults of the data in the newest window."""
        return self.verdicts[-1].faults if self.verdicts else ()

    @property
    def sound_from_ms(self) -> int | None:
        """Event time since which the data is whole; None if the newest window does not show
        that."""
        newest = self.verdicts[-1] if self.verdicts else None
        return newest.start_ms if newest is not None and newest.shifts else None


@dataclass(frozen=True, slots=True)
class IncidentStatus:
    """The status of a model's incident, besides its journal.

    Args:
        matured: matured requests of the new pattern; they are counted only if an incident waits for
            them.
        answer_phase: phase of the newest rollout of the version that answers the incident; None if
            there is no such rollout or version.
        fault: id of the open incident about the model's data; None if there is none.
        retrains: retrains that the model's other incidents asked for.
        trains: whether the model's folder can train it.
        test: id of the A/B/n test that runs; None if none does.
    """

    matured: MaturedRequests = NOTHING_MATURED
    answer_phase: Phase | None = None
    fault: str | None = None
    retrains: Retrains = ()
    trains: bool = True
    test: str | None = None


@dataclass(frozen=True, slots=True)
class OpenIncident:
    """Open an incident: something was found, and no incident of that kind is open."""

    found: IncidentFinding


@dataclass(frozen=True, slots=True)
class CloseIncident:
    """Close an incident that is over, without further action.

    Args:
        ended_ms: event time since which nothing was found any more; None if the incident is closed
            for another reason.
    """

    incident: str
    resolution: str
    ended_ms: int | None = None


@dataclass(frozen=True, slots=True)
class OpenRollout:
    """Open the rollout of the version that answers the incident."""

    version: int


DriftStep = OpenIncident | CloseIncident | OpenRollout | Retrain | Page | Wait


def next_step(
    model: ModelDefinition,
    observation: Observation,
    kind: str,
    incident: Incident | None,
    status: IncidentStatus,
    *,
    wall_ms: int,
    refusal: str | None = None,
) -> DriftStep:
    """The next step of a check of a model, for one kind of incident.

    Args:
        incident: the model's incident of this kind that is not closed; None if there is none.
        refusal: reason why the rollout of the answer was refused to this check; empty if it was
            opened, or if another rollout is under way; None if this check has not asked for it.
    """
    if incident is None:
        found = incident_finding(model.name, observation, kind)
        return Wait("there is no incident") if found is None else OpenIncident(found)
    if over := incident_closure(incident, observation):
        return over
    if kind == FAULT:
        reason = (
            "; ".join(fault.reason for fault in observation.faults)
            or "the fault is not known to be mended"
        )
        return Page(f"a retrain would only learn broken data: {reason}")
    if not status.trains:
        return Page(
            "its folder holds a ready ONNX file, which nothing retrains: put a newer one there, and"
            f" `mlplatform validate {model.name}` makes a version of it"
        )
    answer = incident.answer if incident.state == "answered" else None
    if answer is not None and status.answer_phase is None and refusal is None:
        return OpenRollout(answer) if status.test is None else _waits_for(status.test, model.name)
    if refusal:
        return Page(f"version {answer} was trained for it, but has no rollout: {refusal}")
    step = retrain_when(
        incident,
        status.matured,
        now_ms=observation.now_ms,
        wall_ms=wall_ms,
        policy=model.drift,
        lag_days=model.label.maturity_days + model.training.holdout_days,
        answer_lives=status.answer_phase != "rolled_back",
        fault=status.fault,
        retrains=status.retrains,
    )
    if status.test is not None and isinstance(step, Retrain):
        return _waits_for(status.test, model.name)
    return step


def _waits_for(test: str, model: str) -> Wait:
    return Wait(
        f"test {test} runs, and no version rolls out beside it: `mlplatform variants end {model}`"
        " ends it",
        noted=True,
    )


def incident_closure(incident: Incident, observation: Observation) -> CloseIncident | None:
    """The step that closes an incident that is over; None while it is not over."""
    found = incident.found
    if found.kind == FAULT:
        if observation.sound_from_ms is None:
            return None
        return CloseIncident(incident.id, "the data is whole again", observation.sound_from_ms)
    if observation.champion != found.champion:
        replaced = f"version {observation.champion} replaced version {found.champion}"
        return CloseIncident(incident.id, replaced)
    if incident.state != "open":
        return None
    if found.kind == PERFORMANCE:
        back = observation.performance.health is Health.HEALTHY
        why = "matured labels show no drop any more"
    else:
        back = bool(observation.verdicts) and all(
            v.health is Health.HEALTHY for v in observation.verdicts
        )
        why = f"the last {len(observation.verdicts)} windows look like the profile again"
    return CloseIncident(incident.id, why) if back else None


def incident_finding(model: str, observation: Observation, kind: str) -> IncidentFinding | None:
    """The finding that opens an incident of that kind; None if there is none."""
    changed_ms: int | None = None
    reasons: tuple[str, ...] = ()
    if kind == FAULT and observation.faults:
        changed_ms = observation.verdicts[-1].start_ms
        reasons = tuple(fault.reason for fault in observation.faults)
    elif kind == DRIFT and isinstance(observation.verdict, DriftFinding):
        changed_ms, reasons = observation.verdict.since_ms, observation.verdict.reasons
    elif kind == PERFORMANCE:
        changed_ms, reasons = observation.performance.since_ms, observation.performance.reasons
    if changed_ms is None:
        return None
    return IncidentFinding(
        model=model,
        kind=kind,
        opened_ms=observation.now_ms,
        changed_ms=changed_ms,
        champion=observation.champion,
        evidence={"reasons": list(reasons), **_evidence(observation)},
    )


def _evidence(observation: Observation) -> Mapping[str, Any]:
    return {
        "windows": [verdict.plain(v) for v in observation.verdicts],
        "performance": performance.plain(observation.performance),
    }
