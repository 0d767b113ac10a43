"""Drift checks: the action that runs one, and the pages that show it."""

from __future__ import annotations

import logging
from pathlib import Path

from mlplatform.model.bundle import Bundle, load_bundle
from mlplatform.model.folders import is_ready, model_folder
from mlplatform.model.routes import Arm
from mlplatform.operations.actions import last_results, rollouts, tenures
from mlplatform.operations.actions.last_results import Check, InputShift
from mlplatform.operations.actions.outcomes import read_outcomes
from mlplatform.operations.prefect_client.names import DRIFT_WATCH
from mlplatform.operations.traffic import input_windows
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.drift import report
from mlplatform.rollouts.drift.execute import DriftCheck, run_check
from mlplatform.rollouts.drift.next_step import Observation
from mlplatform.rollouts.drift.ports import DriftPorts
from mlplatform.rollouts.drift.report import summary
from mlplatform.runtime.errors import Busy, Corrupt, PlanRefused
from mlplatform.runtime.units import DAY_MS

log = logging.getLogger(__name__)


def watch(platform: Platform, model: str, holder: str) -> DriftCheck:
    """Judge the last windows, record the incident, and ask for a retrain if one is due.

    Raises:
        NotFound: the model has no champion yet.
    """
    check = run_check(platform.definition(model), ports(platform, model), holder=holder)
    with last_results.for_people():
        _keep_measured(platform, model, check.observation)
        _keep_inputs(platform.settings.home.measured, model, check)
    return check


def open_retrained(
    platform: Platform, model: str, version: int, *, actor: str, reason: str, incident: str | None
) -> str | None:
    """Open the rollout of a version that a retrain has made; returns its id.

    If the retrain answers an incident, the rollout may not be opened yet: the result is None. The
    next check then tries again, and calls a person if the plan is refused.

    Raises:
        Busy: another version is ramping, and the retrain answers no incident.
        PlanRefused: the rollout can't decide in time, and the retrain answers no incident.
    """
    try:
        return rollouts.open_rollout(platform, model, version, actor=actor, reason=reason)
    except (Busy, PlanRefused) as refused:
        if incident is None:
            raise
        log.warning("version %d answers %s, and has no rollout yet: %s", version, incident, refused)
        return None


def ports(platform: Platform, model: str) -> DriftPorts:
    """The ports that a drift check of a model uses."""

    def bundle(arm: Arm) -> Bundle:
        return load_bundle(platform.bundle(model, arm), arm.bundle)

    def open_rollout(version: int) -> str | None:
        reason = "it answers a drift incident"
        try:
            rollouts.open_rollout(platform, model, version, actor=DRIFT_WATCH, reason=reason)
        except PlanRefused as refused:
            return str(refused)
        return None

    return DriftPorts(
        log=platform.log,
        counted=platform.settings.home.counted,
        incidents=platform.incidents,
        rollouts=platform.rollouts,
        offline=platform.offline(model),
        clock=platform.clock,
        views=platform.views(model),
        bundle=bundle,
        open_rollout=open_rollout,
        trains=not is_ready(model_folder(model)),
    )


def _keep_measured(platform: Platform, model: str, observation: Observation) -> None:
    newest = observation.verdicts[-1].shifts if observation.verdicts else ()
    inputs = {
        s.name: InputShift(s.psi, s.psi_limit, s.distance, s.distance_limit, s.missing_share)
        for s in newest
    }
    outcomes = read_outcomes(platform.log, platform.definition(model), observation.now_ms)
    at_ms, verdict = platform.clock.wall_ms(), observation.verdict.outcome
    folder = platform.settings.home.measured
    since_ms = last_results.undecided_since(verdict, at_ms, _check_before(folder, model))
    performance = str(observation.performance.health).lower()
    last_check = Check(at_ms, verdict, inputs, outcomes, since_ms, performance)
    last_results.keep(folder, model, last_check)
    if observation.tenure is not None:
        tenures.keep(folder, model, observation.tenure)


def _keep_inputs(folder: Path, model: str, check: DriftCheck) -> None:
    champion, observation = check.champion, check.observation
    judged = zip(observation.windows, observation.verdicts, strict=True)
    newest = [
        input_windows.input_window(
            observation.champion, champion.profile, champion.rhythms, window, verdict
        )
        for window, verdict in judged
    ]
    if not newest:
        return
    try:
        before = input_windows.read(folder, model)
    except Corrupt:  # this check replaces it
        log.exception("the kept windows of %s can't be read", model)
        before = input_windows.InputHistory()
    input_windows.keep(folder, model, input_windows.together(before, newest))


def _check_before(folder: Path, model: str) -> Check | None:
    try:
        return last_results.last(folder, model, Check)
    except Corrupt:  # the next check replaces it
        log.exception("the last drift check of %s can't be read", model)
        return None


def page(model: str, check: DriftCheck) -> str:
    """A drift check as Markdown."""
    observation = check.observation
    return summary(
        model,
        observation.champion,
        observation.verdicts,
        check.summary,
        observation.performance,
        score_word=observation.score_word,
    )


def windows_table(check: DriftCheck) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns, and a row for each judged window."""
    observation = check.observation
    return report.windows_table(observation.verdicts, score_word=observation.score_word)


def report_note(path: Path) -> str:
    """The report's path as Markdown text, not a link: browsers follow no link from a page to a
    local file."""
    return f"Evidently's report is a file on the machine of the flows; open it there:\n\n`{path}`\n"


def write_report(platform: Platform, model: str, check: DriftCheck) -> Path:
    """Write Evidently's HTML report on the judged windows; returns its path."""
    observation = check.observation
    day = str(observation.now_ms // DAY_MS)
    path = platform.settings.home.reports / f"drift-{model}-v{observation.champion}-day{day}.html"
    then, now = (
        report.profile_sample(check.champion.profile),
        report.window_sample(observation.windows),
    )
    return report.write_report(then, now, platform.definition(model).drift, path)
