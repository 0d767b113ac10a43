"""One pass of the drift watch, and what people see of it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlplatform.model.bundle import load_bundle
from mlplatform.operations.jobs import measured, rollouts
from mlplatform.operations.jobs.measured import Check, Moved
from mlplatform.rollouts.drift import incidents as drift_incidents
from mlplatform.rollouts.drift import job as drift_job
from mlplatform.rollouts.drift.retrain import RetrainDecision
from mlplatform.rollouts.journal.transitions import Promoted
from mlplatform.runtime.errors import Busy, Corrupt, NotFound

if TYPE_CHECKING:
    from mlplatform.operations.wiring import Platform

AUTHOR = "drift-watch"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DriftCheck:
    """What one pass of the drift watch saw and did.

    Args:
        opened: the incident was opened by this very pass.
        event: to emit, if any.
    """

    observation: drift_job.Observation
    champion: drift_job.Champion
    incident: drift_incidents.Incident | None = None
    opened: bool = False
    decision: RetrainDecision | None = None
    event: Mapping[str, Any] | None = None

    @property
    def words(self) -> str:
        """The verdict, the incident and what was decided, in a sentence or two."""
        verdict = self.observation.verdict
        said = f"{type(verdict).__name__.lower()}: {'; '.join(verdict.reasons)}"
        if self.incident is None:
            return said
        decision = self.decision
        next_step = "" if decision is None else f" {type(decision).__name__}: {decision.reason}"
        return f"{said}. Incident {self.incident.id} is {self.incident.state}.{next_step}"


def watch(platform: Platform, model: str, holder: str) -> DriftCheck:
    """Judge the last windows, keep the incident, and ask for a retrain when one is due.

    Raises:
        NotFound: the model has no champion yet.
    """
    check = _watched(platform, model, holder)
    with measured.for_people():
        _keep_measured(platform, model, check.observation)
    return check


def _watched(platform: Platform, model: str, holder: str) -> DriftCheck:
    definition, wall_ms = platform.definition(model), platform.clock.wall_ms()
    now_ms = platform.clock.event_ms()
    champion = _champion(platform, model)
    before = {i.id for i in platform.incidents.list(model)}
    seen = drift_job.observe(platform.log, definition, platform.views(model), champion, now_ms)
    incident = drift_job.keep_incident(platform.incidents, model, seen, wall_ms=wall_ms)
    if incident is None:
        return DriftCheck(seen, champion)
    if incident.state == "answered" and incident.answer is not None:
        _start_answer(platform, model, incident.answer)
    offline = platform.offline(model)
    offline.project(platform.log)
    decision = drift_job.decide(
        incident,
        offline,
        definition,
        now_ms=now_ms,
        wall_ms=wall_ms,
        answer_lives=_answer_lives(platform, model, incident),
    )
    event = drift_job.act(
        platform.incidents,
        incident,
        decision,
        holder=holder,
        claim_s=definition.drift.claim_s,
        wall_ms=wall_ms,
    )
    opened = incident.id not in before
    return DriftCheck(seen, champion, incident, opened, decision, event)


def _keep_measured(platform: Platform, model: str, seen: drift_job.Observation) -> None:
    from mlplatform.operations.jobs.outcomes import read_outcomes

    newest = seen.verdicts[-1].shifts if seen.verdicts else ()
    inputs = {
        s.name: Moved(s.psi, s.psi_limit, s.distance, s.distance_limit, s.missing_share)
        for s in newest
    }
    outcomes = read_outcomes(platform.log, platform.definition(model), seen.now_ms)
    at_ms, verdict = platform.clock.wall_ms(), type(seen.verdict).__name__.lower()
    folder = platform.settings.home.measured
    since_ms = measured.undecided_since(verdict, at_ms, _check_before(folder, model))
    measured.keep(folder, model, Check(at_ms, verdict, inputs, outcomes, since_ms))


def _check_before(folder: Path, model: str) -> Check | None:
    try:
        return measured.last(folder, model, Check)
    except Corrupt:  # the next one takes its place
        log.exception("the last drift check of %s can't be read", model)
        return None


def page(model: str, check: DriftCheck) -> str:
    """The check in Markdown."""
    from mlplatform.rollouts.drift.report import summary

    seen = check.observation
    return summary(model, seen.champion, seen.verdicts, check.words)


def report_note(path: Path) -> str:
    """Where the report is, in Markdown: no browser follows a link from a page to a local file."""
    return f"Evidently's report is a file on the machine of the flows; open it there:\n\n`{path}`\n"


def write_report(platform: Platform, model: str, check: DriftCheck) -> Path:
    """Evidently's report on the windows that were judged, as an HTML file; returns its path."""
    from mlplatform.rollouts.drift import report

    seen = check.observation
    day = str(seen.now_ms // 86_400_000)
    path = platform.settings.home.reports / f"drift-{model}-v{seen.champion}-day{day}.html"
    then, now = report.profile_sample(check.champion.profile), report.window_sample(seen.windows)
    return report.write_report(then, now, platform.definition(model).drift, path)


def _champion(platform: Platform, model: str) -> drift_job.Champion:
    from mlplatform.rollouts.drift.verdict import Band
    from mlplatform.rollouts.drift.windows import ChampionTenure

    routes = platform.rollouts.routes(model)
    if routes.champion is None:
        raise NotFound(f"{model} has no champion yet")
    bundle = load_bundle(platform.bundle(model, routes.champion), routes.champion.bundle)
    return drift_job.Champion(
        ChampionTenure(
            routes.champion.version, _champion_since(platform, model, routes.champion.version)
        ),
        bundle.inputs,
        bundle.profile,
        Band(bundle.alert_band.low, bundle.alert_band.high),
    )


def _champion_since(platform: Platform, model: str, version: int) -> int:
    for state in reversed(platform.rollouts.active(model, finished=True)):
        if state.challenger.version == version:
            facts = platform.rollouts.read(state.rollout_id)
            return next((f.event_ms for f in facts if isinstance(f, Promoted)), 0)
    return 0


def _start_answer(platform: Platform, model: str, version: int) -> None:
    """Open the rollout of a version that answers an incident, where the retrain could not."""
    states = platform.rollouts.active(model, finished=True)
    if any(state.challenger.version == version for state in states):
        return
    with contextlib.suppress(Busy):  # the next pass tries again
        reason = "it answers a drift incident"
        rollouts.open_rollout(platform, model, version, actor=AUTHOR, reason=reason)


def _answer_lives(platform: Platform, model: str, incident: drift_incidents.Incident) -> bool:
    """Whether the version that answers an incident is on its way, or about to be."""
    states = [
        state
        for state in platform.rollouts.active(model, finished=True)
        if state.challenger.version == incident.answer
    ]
    return not states or states[-1].phase != "rolled_back"
