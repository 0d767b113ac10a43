"""What a drift check does next, and why: pure, from what was observed and the incident."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mlplatform.model.definition import ModelDefinition
from mlplatform.rollouts.drift.incidents import Finding, Incident
from mlplatform.rollouts.drift.retrain import Matured, Page, Retrain, Wait, retrain_when
from mlplatform.rollouts.drift.verdict import (
    Drifted,
    DriftVerdict,
    Health,
    Window,
    WindowVerdict,
    plain,
)
from mlplatform.rollouts.journal.state import Phase

KIND: Final = "drift"
NOTHING_MATURED: Final = Matured(0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What the log shows, window by window, and what follows from it."""

    champion: int
    now_ms: int
    windows: tuple[Window, ...]
    verdicts: tuple[WindowVerdict, ...]
    verdict: DriftVerdict


@dataclass(frozen=True, slots=True)
class IncidentStatus:
    """What is known of the incident of a model besides what its journal says.

    Args:
        matured: labels of the new pattern; counted only where an incident waits for them.
        answer_phase: of the newest rollout of the version that answers the incident; None: it has
            no rollout yet, or there is no such version.
    """

    matured: Matured = NOTHING_MATURED
    answer_phase: Phase | None = None


@dataclass(frozen=True, slots=True)
class OpenIncident:
    """The verdict is drifted, and no incident is under way."""

    found: Finding


@dataclass(frozen=True, slots=True)
class CloseIncident:
    """The incident is over, without anything done about it."""

    incident: str
    resolution: str


@dataclass(frozen=True, slots=True)
class OpenRollout:
    """The version that answers the incident has no rollout yet."""

    version: int


DriftStep = OpenIncident | CloseIncident | OpenRollout | Retrain | Page | Wait


def next_step(
    model: ModelDefinition,
    seen: Observation,
    incident: Incident | None,
    status: IncidentStatus,
    *,
    wall_ms: int,
    has_tried_rollout: bool = False,
) -> DriftStep:
    """The next step of a check over a model.

    Args:
        incident: the one that is not closed.
        has_tried_rollout: this check has already asked for the rollout of the answer; another one
            that is under way may refuse it.
    """
    if incident is None:
        if isinstance(seen.verdict, Drifted):
            return OpenIncident(_finding(model.name, seen, seen.verdict))
        return Wait("there is no incident")
    if resolution := resolved(incident, seen):
        return CloseIncident(incident.id, resolution)
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
    )


def resolved(incident: Incident, seen: Observation) -> str | None:
    """Why an incident is over; None while it is not."""
    if seen.champion != incident.found.champion:
        return f"version {seen.champion} replaced version {incident.found.champion}"
    back = bool(seen.verdicts) and all(v.health is Health.HEALTHY for v in seen.verdicts)
    if incident.state == "open" and back:
        return f"the last {len(seen.verdicts)} windows look like the profile again"
    return None


def _finding(model: str, seen: Observation, verdict: Drifted) -> Finding:
    return Finding(
        model=model,
        kind=KIND,
        opened_ms=seen.now_ms,
        changed_ms=verdict.since_ms,
        champion=seen.champion,
        evidence={
            "reasons": list(verdict.reasons),
            "windows": [plain(v) for v in seen.verdicts],
        },
    )
