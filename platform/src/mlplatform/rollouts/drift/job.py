"""One pass of the drift watch over a model: look, judge, keep the incident, ask for a retrain.

Every pass may be the first after a crash: it reads where things stand, does the next thing, and
done twice changes nothing. The event that asks for a retrain has an id made from the incident and
its claim, so a pass that emits it again starts no second run.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlplatform.decisions.records.port import DecisionLog
from mlplatform.learning.features.dataset import window
from mlplatform.model.definition import InputSpec, ModelDefinition
from mlplatform.model.feature_views import FeatureView
from mlplatform.model.profile import Profile
from mlplatform.rollouts.drift.incidents import Claimed, Finding, Held, Incident, Incidents, Over
from mlplatform.rollouts.drift.retrain import (
    LabelledRequests,
    Page,
    Retrain,
    RetrainDecision,
    matured_since,
    retrain_when,
)
from mlplatform.rollouts.drift.verdict import (
    Band,
    Drifted,
    DriftVerdict,
    Health,
    Window,
    WindowVerdict,
    drift_verdict,
    plain,
    window_verdict,
)
from mlplatform.rollouts.drift.windows import ChampionTenure, drift_plan, read_windows

KIND = "drift"
RETRAIN_EVENT = "mlplatform.drift.retrain"
PAGE_EVENT = "mlplatform.drift.page"
NAMESPACE = uuid.UUID("6b0f2ad5-7d7c-5d0e-9a3f-0f6a5b1f7c11")


@dataclass(frozen=True, slots=True)
class Champion:
    """The champion as drift is measured against it."""

    reign: ChampionTenure
    inputs: tuple[InputSpec, ...]
    profile: Profile
    band: Band


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What the log shows, window by window, and what follows from it."""

    champion: int
    now_ms: int
    windows: tuple[Window, ...]
    verdicts: tuple[WindowVerdict, ...]
    verdict: DriftVerdict


def observe(
    log: DecisionLog,
    definition: ModelDefinition,
    views: Sequence[FeatureView],
    champion: Champion,
    now_ms: int,
) -> Observation:
    """Judge the last windows of decisions against the champion's profile."""
    plan = drift_plan(definition, views, champion.inputs)
    windows = read_windows(log, plan, definition, champion.reign, now_ms)
    policy = definition.drift
    verdicts = [window_verdict(champion.profile, w, policy, champion.band) for w in windows]
    verdict = drift_verdict(verdicts, policy)
    return Observation(champion.reign.version, now_ms, tuple(windows), tuple(verdicts), verdict)


def keep_incident(
    incidents: Incidents, model: str, seen: Observation, *, wall_ms: int
) -> Incident | None:
    """The model's incident after this observation; None where there is none.

    Opens one for a drifted verdict. Closes one whose champion was replaced, and one that nothing
    was done about yet while every window is back to the profile.
    """
    incident = next(iter(incidents.list(model, closed=False)), None)
    if incident is not None and (resolution := resolved(incident, seen)):
        incidents.close(incident.id, resolution, now_ms=wall_ms)
        incident = None
    if incident is None and isinstance(seen.verdict, Drifted):
        return incidents.open(_finding(model, seen, seen.verdict), now_ms=wall_ms)
    return incident


def resolved(incident: Incident, seen: Observation) -> str | None:
    """Why an incident is over; None while it is not."""
    if seen.champion != incident.found.champion:
        return f"version {seen.champion} replaced version {incident.found.champion}"
    back = bool(seen.verdicts) and all(v.health is Health.HEALTHY for v in seen.verdicts)
    if incident.state == "open" and back:
        return f"the last {len(seen.verdicts)} windows look like the profile again"
    return None


def decide(
    incident: Incident,
    offline: LabelledRequests,
    definition: ModelDefinition,
    *,
    now_ms: int,
    wall_ms: int,
    answer_lives: bool,
) -> RetrainDecision:
    """Whether to retrain for this incident now, by the labels in the offline table.

    The table must have been projected from the log in this pass.
    """
    fitted_until_ms = window(definition, now_ms).holdout_from_ms
    matured = matured_since(
        offline, incident.found.changed_ms, fitted_until_ms=fitted_until_ms, now_ms=now_ms
    )
    return retrain_when(
        incident,
        matured,
        now_ms=now_ms,
        wall_ms=wall_ms,
        policy=definition.drift,
        lag_days=definition.label.maturity_days + definition.training.holdout_days,
        answer_lives=answer_lives,
    )


def act(
    incidents: Incidents,
    incident: Incident,
    decision: RetrainDecision,
    *,
    holder: str,
    claim_s: int,
    wall_ms: int,
) -> dict[str, Any] | None:
    """Carry a decision out; returns the Prefect event to emit, if any.

    While a claim holds, the same event comes back at every pass: emitted again it starts nothing
    new, and what was lost on the way starts then. Once the claim has expired without an answer,
    the next one makes a new event.
    """
    match decision:
        case Retrain():
            until_ms = wall_ms + claim_s * 1000
            outcome = incidents.claim(incident.id, holder, until_ms=until_ms, now_ms=wall_ms)
            match outcome:
                case Claimed(claim=claim) | Held(claim=claim):
                    return retrain_event(incident, claim, decision, wall_ms)
                case Over():
                    return None
        case Page():
            return page_event(incident, decision, wall_ms)
        case _:
            return None


def retrain_event(
    incident: Incident, claim: int, decision: Retrain, wall_ms: int
) -> dict[str, Any]:
    """The event that starts `retrain`, once for each claim of an incident."""
    payload = {
        "incident": incident.id,
        "claim": claim,
        "as_of": datetime.fromtimestamp(decision.as_of_ms / 1000, UTC).isoformat(),
        "reason": decision.reason,
    }
    key = f"{incident.id}/retrain/{claim}"
    return _event(RETRAIN_EVENT, key, incident.found.model, payload, wall_ms)


def page_event(incident: Incident, decision: Page, wall_ms: int) -> dict[str, Any]:
    """The event that calls a person, once for each reason of an incident."""
    payload = {"incident": incident.id, "reason": decision.reason}
    key = f"{incident.id}/page/{len(incident.changes)}"
    return _event(PAGE_EVENT, key, incident.found.model, payload, wall_ms)


def _event(
    name: str, key: str, model: str, payload: Mapping[str, Any], wall_ms: int
) -> dict[str, Any]:
    return {
        "id": str(uuid.uuid5(NAMESPACE, key)),
        "occurred": datetime.fromtimestamp(wall_ms / 1000, UTC).isoformat(),
        "event": name,
        "resource": {
            "prefect.resource.id": f"mlplatform.model.{model}",
            "prefect.resource.name": model,
        },
        "related": [],
        # where it was found out, which whoever emits the event fills in
        "payload": {"model": model, "traceparent": "", **payload},
    }


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
