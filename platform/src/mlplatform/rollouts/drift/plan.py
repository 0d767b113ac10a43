"""What a drift check does next, and why: pure, from what was observed and the incident."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mlplatform.model.definition import ModelDefinition
from mlplatform.rollouts.drift import performance, verdict
from mlplatform.rollouts.drift.faults import Fault
from mlplatform.rollouts.drift.health import Health
from mlplatform.rollouts.drift.incidents import DRIFT, FAULT, PERFORMANCE, Finding, Incident
from mlplatform.rollouts.drift.performance import NOT_JUDGED, PerformanceVerdict
from mlplatform.rollouts.drift.retrain import (
    Matured,
    Page,
    Retrain,
    Retrains,
    Wait,
    retrain_when,
)
from mlplatform.rollouts.drift.tenure import MaturedTenure
from mlplatform.rollouts.drift.verdict import Drifted, DriftVerdict, Window, WindowVerdict
from mlplatform.rollouts.journal.state import Phase

NOTHING_MATURED: Final = Matured(0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What the log shows, window by window, and what follows from it.

    Args:
        windows: a sample of each, for reports.
        performance: by the labels that have matured under the champion.
        tenure: what they say of all its days.
    """

    champion: int
    now_ms: int
    windows: tuple[Window, ...]
    verdicts: tuple[WindowVerdict, ...]
    verdict: DriftVerdict
    performance: PerformanceVerdict = NOT_JUDGED
    tenure: MaturedTenure | None = None

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What is broken in the newest window."""
        return self.verdicts[-1].faults if self.verdicts else ()

    @property
    def sound_from_ms(self) -> int | None:
        """Since when the data is whole; None where the newest window does not show it."""
        newest = self.verdicts[-1] if self.verdicts else None
        return newest.start_ms if newest is not None and newest.shifts else None


@dataclass(frozen=True, slots=True)
class IncidentStatus:
    """What is known of the incident of a model besides what its journal says.

    Args:
        matured: labels of the new pattern; counted only where an incident waits for them.
        answer_phase: of the newest rollout of the version that answers the incident; None: it has
            no rollout yet, or there is no such version.
        fault: the open incident of the model's data, if there is one.
        retrains: that the model's other incidents asked for.
    """

    matured: Matured = NOTHING_MATURED
    answer_phase: Phase | None = None
    fault: str | None = None
    retrains: Retrains = ()


@dataclass(frozen=True, slots=True)
class OpenIncident:
    """Something was found, and no incident of that kind is under way."""

    found: Finding


@dataclass(frozen=True, slots=True)
class CloseIncident:
    """The incident is over, without anything done about it.

    Args:
        ended_ms: event time from which on nothing was found any more; None where that is not why.
    """

    incident: str
    resolution: str
    ended_ms: int | None = None


@dataclass(frozen=True, slots=True)
class OpenRollout:
    """The version that answers the incident has no rollout yet."""

    version: int


DriftStep = OpenIncident | CloseIncident | OpenRollout | Retrain | Page | Wait


def next_step(
    model: ModelDefinition,
    seen: Observation,
    kind: str,
    incident: Incident | None,
    status: IncidentStatus,
    *,
    wall_ms: int,
    has_tried_rollout: bool = False,
) -> DriftStep:
    """The next step of a check over a model, about one kind of incident.

    Args:
        incident: the one of that kind that is not closed.
        has_tried_rollout: this check has already asked for the rollout of the answer; another one
            that is under way may refuse it.
    """
    if incident is None:
        found = finding(model.name, seen, kind)
        return Wait("there is no incident") if found is None else OpenIncident(found)
    if over := resolved(incident, seen):
        return over
    if kind == FAULT:
        told = "; ".join(fault.told for fault in seen.faults) or "not known to be mended"
        return Page(f"a retrain would only learn it: {told}")
    answer = incident.answer if incident.state == "answered" else None
    if answer is not None and status.answer_phase is None and not has_tried_rollout:
        return OpenRollout(answer)
    return retrain_when(
        incident,
        status.matured,
        now_ms=seen.now_ms,
        wall_ms=wall_ms,
        policy=model.drift,
        lag_days=model.label.maturity_days + model.training.holdout_days,
        answer_lives=status.answer_phase != "rolled_back",
        fault=status.fault,
        retrains=status.retrains,
    )


def resolved(incident: Incident, seen: Observation) -> CloseIncident | None:
    """Why an incident is over; None while it is not."""
    found = incident.found
    if found.kind == FAULT:
        if seen.sound_from_ms is None:
            return None
        return CloseIncident(incident.id, "the data is whole again", seen.sound_from_ms)
    if seen.champion != found.champion:
        replaced = f"version {seen.champion} replaced version {found.champion}"
        return CloseIncident(incident.id, replaced)
    if incident.state != "open":
        return None
    if found.kind == PERFORMANCE:
        back = seen.performance.health is Health.HEALTHY
        why = "matured labels show no drop any more"
    else:
        back = bool(seen.verdicts) and all(v.health is Health.HEALTHY for v in seen.verdicts)
        why = f"the last {len(seen.verdicts)} windows look like the profile again"
    return CloseIncident(incident.id, why) if back else None


def finding(model: str, seen: Observation, kind: str) -> Finding | None:
    """What opens an incident of that kind; None where there is nothing."""
    changed_ms: int | None = None
    reasons: tuple[str, ...] = ()
    if kind == FAULT and seen.faults:
        changed_ms = seen.verdicts[-1].start_ms
        reasons = tuple(fault.told for fault in seen.faults)
    elif kind == DRIFT and isinstance(seen.verdict, Drifted):
        changed_ms, reasons = seen.verdict.since_ms, seen.verdict.reasons
    elif kind == PERFORMANCE:
        changed_ms, reasons = seen.performance.since_ms, seen.performance.reasons
    if changed_ms is None:
        return None
    return Finding(
        model=model,
        kind=kind,
        opened_ms=seen.now_ms,
        changed_ms=changed_ms,
        champion=seen.champion,
        evidence={"reasons": list(reasons), **_evidence(seen)},
    )


def _evidence(seen: Observation) -> Mapping[str, Any]:
    return {
        "windows": [verdict.plain(v) for v in seen.verdicts],
        "performance": performance.plain(seen.performance),
    }
