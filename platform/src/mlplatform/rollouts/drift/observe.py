"""What a drift check sees before it decides: windows of the log, and an incident."""

from __future__ import annotations

from dataclasses import dataclass

from mlplatform.learning.features.dataset import window
from mlplatform.model.definition import InputSpec, ModelDefinition
from mlplatform.model.profile import Profile
from mlplatform.rollouts.drift.incidents import Incident
from mlplatform.rollouts.drift.plan import IncidentStatus, Observation
from mlplatform.rollouts.drift.ports import DriftPorts
from mlplatform.rollouts.drift.retrain import Matured, matured_since
from mlplatform.rollouts.drift.verdict import Band, drift_verdict, window_verdict
from mlplatform.rollouts.drift.windows import ChampionTenure, drift_plan, read_windows
from mlplatform.rollouts.journal.state import Phase
from mlplatform.rollouts.journal.transitions import Promoted
from mlplatform.runtime.errors import NotFound


@dataclass(frozen=True, slots=True)
class Champion:
    """The champion as drift is measured against it."""

    tenure: ChampionTenure
    inputs: tuple[InputSpec, ...]
    profile: Profile
    band: Band


def champion_of(model: str, ports: DriftPorts) -> Champion:
    """The champion of the routes of now.

    Raises:
        NotFound: the model has none yet.
    """
    arm = ports.rollouts.routes(model).champion
    if arm is None:
        raise NotFound(f"{model} has no champion yet")
    bundle = ports.bundle(arm)
    return Champion(
        ChampionTenure(arm.version, _promoted_ms(model, arm.version, ports)),
        bundle.inputs,
        bundle.profile,
        Band(bundle.alert_band.low, bundle.alert_band.high),
    )


def observe(
    definition: ModelDefinition, ports: DriftPorts, champion: Champion, now_ms: int
) -> Observation:
    """The last windows of decisions, each judged by the champion's profile."""
    plan = drift_plan(definition, ports.views, champion.inputs)
    windows = read_windows(ports.log, plan, definition, champion.tenure, now_ms)
    policy = definition.drift
    verdicts = [window_verdict(champion.profile, w, policy, champion.band) for w in windows]
    verdict = drift_verdict(verdicts, policy)
    return Observation(champion.tenure.version, now_ms, tuple(windows), tuple(verdicts), verdict)


def incident_status(
    definition: ModelDefinition, ports: DriftPorts, incident: Incident, now_ms: int
) -> IncidentStatus:
    """What is known of an incident: its labels, or the rollout of its answer."""
    if incident.state == "answered":
        return IncidentStatus(answer_phase=_answer_phase(ports, incident))
    ports.offline.project(ports.log)
    return IncidentStatus(_matured(definition, ports, incident, now_ms))


def _matured(
    definition: ModelDefinition, ports: DriftPorts, incident: Incident, now_ms: int
) -> Matured:
    fitted_until_ms = window(definition, now_ms).holdout_from_ms
    changed_ms = incident.found.changed_ms
    return matured_since(ports.offline, changed_ms, fitted_until_ms=fitted_until_ms, now_ms=now_ms)


def _answer_phase(ports: DriftPorts, incident: Incident) -> Phase | None:
    phases = [
        state.phase
        for state in ports.rollouts.active(incident.found.model, finished=True)
        if state.challenger.version == incident.answer
    ]
    return phases[-1] if phases else None


def _promoted_ms(model: str, version: int, ports: DriftPorts) -> int:
    for state in reversed(ports.rollouts.active(model, finished=True)):
        if state.challenger.version == version:
            facts = ports.rollouts.read(state.rollout_id)
            return next((f.event_ms for f in facts if isinstance(f, Promoted)), 0)
    return 0
