"""The observations before a drift check decides: windows of the log, and an incident's state."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from mlplatform.learning.training_sets.dataset import window
from mlplatform.model.definition import InputSpec, ModelDefinition
from mlplatform.model.profile import Profile
from mlplatform.model.rhythm import SCORE, Rhythm
from mlplatform.model.tensors.categories import Vocabularies
from mlplatform.rollouts.drift.incidents import FAULT, Incident
from mlplatform.rollouts.drift.matured_outcomes import read_matured
from mlplatform.rollouts.drift.next_step import IncidentStatus, Observation
from mlplatform.rollouts.drift.performance import MaturedDays, performance_verdict
from mlplatform.rollouts.drift.ports import DriftPorts
from mlplatform.rollouts.drift.retrain import MaturedRequests, matured_since
from mlplatform.rollouts.drift.tenure import matured_tenure
from mlplatform.rollouts.drift.verdict import (
    Band,
    Window,
    WindowVerdict,
    drift_verdict,
    window_verdict,
)
from mlplatform.rollouts.drift.windows import (
    ChampionTenure,
    drift_plan,
    read_windows,
    sampled,
)
from mlplatform.rollouts.journal.state import Phase
from mlplatform.rollouts.journal.transitions import Promoted
from mlplatform.runtime.errors import NotFound

SAMPLE_ROWS = 5000
"""Rows of each window that are kept for reports."""


@dataclass(frozen=True, slots=True)
class Champion:
    """The champion as drift is measured against it.

    Args:
        band: expected band of the share of alerts; None if the champion raises no alerts.
        score_word: word for its scores in texts for people.
    """

    tenure: ChampionTenure
    inputs: tuple[InputSpec, ...]
    profile: Profile
    band: Band | None
    rhythms: Mapping[str, Rhythm] = field(default_factory=dict)
    vocabularies: Vocabularies = field(default_factory=dict)
    score_word: str = SCORE


def champion_of(model: str, ports: DriftPorts) -> Champion:
    """The champion of the present routes.

    Raises:
        NotFound: the model has no champion yet.
    """
    arm = ports.rollouts.routes(model).champion
    if arm is None:
        raise NotFound(f"{model} has no champion yet")
    bundle = ports.bundle(arm)
    return Champion(
        ChampionTenure(arm.version, _promoted_ms(model, arm.version, ports)),
        bundle.inputs,
        bundle.profile,
        Band(bundle.alert_band.low, bundle.alert_band.high) if bundle.scale.alerts else None,
        bundle.rhythms or {},
        bundle.vocabularies,
        bundle.scale.score_word,
    )


def observe(
    definition: ModelDefinition, ports: DriftPorts, champion: Champion, now_ms: int
) -> Observation:
    """The last windows of decisions, each judged by the champion's profile, and its performance."""
    words = champion.vocabularies
    plan = drift_plan(definition, ports.views, champion.inputs, vocabularies=words)
    policy, tenure = definition.drift, champion.tenure
    windows: list[Window] = []
    verdicts: list[WindowVerdict] = []
    for read in read_windows(ports.log, plan, definition, tenure, now_ms):
        verdicts.append(
            window_verdict(
                champion.profile,
                read,
                policy,
                champion.band,
                champion.rhythms,
                score_word=champion.score_word,
            )
        )
        windows.append(sampled(read, SAMPLE_ROWS))
    matured = _matured_days(definition, ports, champion, now_ms)
    return Observation(
        champion=tenure.version,
        now_ms=now_ms,
        windows=tuple(windows),
        verdicts=tuple(verdicts),
        verdict=drift_verdict(verdicts, policy),
        performance=performance_verdict(matured, policy),
        tenure=matured_tenure(
            matured, version=tenure.version, since_ms=tenure.since_ms, now_ms=now_ms
        ),
        score_word=champion.score_word,
    )


def _matured_days(
    definition: ModelDefinition, ports: DriftPorts, champion: Champion, now_ms: int
) -> MaturedDays:
    segments = {segment.input for segment in definition.drift.segments}
    words = champion.vocabularies
    plan = drift_plan(definition, ports.views, champion.inputs, segments, words)
    faults = [i for i in ports.incidents.list(definition.name) if i.found.kind == FAULT]
    faulty = [(i.found.changed_ms, _ended_ms(i, now_ms)) for i in faults]
    return read_matured(ports.counted, ports.log, definition, plan, champion.tenure, now_ms, faulty)


def _ended_ms(fault: Incident, now_ms: int) -> int:
    """Event time at which a fault ended: `ended_ms`; else the time at which it was opened, if
    somebody closed it; else now."""
    if fault.ended_ms is not None:
        return fault.ended_ms
    return fault.found.opened_ms if fault.state == "closed" else now_ms


def incident_status(
    definition: ModelDefinition, ports: DriftPorts, incident: Incident, now_ms: int
) -> IncidentStatus:
    """The status of an incident: its labels or the rollout of its answer, and the model's other
    incidents."""
    if incident.found.kind == FAULT:
        return IncidentStatus()
    test = ports.rollouts.routes(definition.name).test
    test_id = None if test is None else test.test_id
    if incident.state == "answered":
        return IncidentStatus(answer_phase=_answer_phase(ports, incident), test=test_id)
    if not ports.trains:
        return IncidentStatus(trains=False)
    ports.offline.project(ports.log)
    others = [i for i in ports.incidents.list(definition.name) if i.id != incident.id]
    return IncidentStatus(
        _matured(definition, ports, incident, now_ms),
        fault=next((i.id for i in others if i.found.kind == FAULT and i.state != "closed"), None),
        retrains=[
            (change.at_ms, i.id)
            for i in others
            for before, change in itertools.pairwise(i.changes)
            if change.claim > before.claim
        ],
        test=test_id,
    )


def _matured(
    definition: ModelDefinition, ports: DriftPorts, incident: Incident, now_ms: int
) -> MaturedRequests:
    fitted_until_ms = window(definition, now_ms).holdout_from_ms
    changed_ms = incident.found.changed_ms
    return matured_since(
        ports.offline,
        changed_ms,
        fitted_until_ms=fitted_until_ms,
        now_ms=now_ms,
        task=definition.task,
    )


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
