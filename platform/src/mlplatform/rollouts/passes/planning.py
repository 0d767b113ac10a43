"""A rollout's plan: from model.yaml, the validation report and the traffic of the last days."""

from __future__ import annotations

from collections.abc import Iterator

from mlplatform.decisions.records.port import DecisionLog
from mlplatform.model.definition import CanaryStep, ModelDefinition, ShadowStep
from mlplatform.model.routes import Routes
from mlplatform.rollouts.journal.transitions import Evidence, PlannedStep, RolloutPlan
from mlplatform.rollouts.passes.history import read_profile
from mlplatform.rollouts.passes.observe import gate_errors, predicted, step_limits
from mlplatform.rollouts.verdicts.comparison import Prediction
from mlplatform.rollouts.verdicts.courses import Alerts
from mlplatform.rollouts.verdicts.planner import (
    SURE,
    Confirmation,
    Stage,
    StagePlan,
    plan_confirmation,
    plan_stage,
)
from mlplatform.rollouts.verdicts.ramp import Plan, doubts, proposed, refusals
from mlplatform.rollouts.verdicts.traffic_profile import TrafficProfile

PLANNED_DAYS = 7.0
LEAST_HOURS = 24
"""Hours of event time with traffic: of fewer, a day and its night can't be told."""
ALONE_UNKNOWN = 0.3
"""Of the frauds, those that one version alone finds, where no replay has said."""


def planned(
    definition: ModelDefinition,
    log: DecisionLog,
    routes: Routes,
    validation: Evidence,
    *,
    days: float,
    now_event_ms: int,
) -> Plan | str:
    """The plan of a rollout; or why there is none.

    Args:
        validation: the challenger's gate report; empty: it has none.
        days: of event time, that are read of the log.
    """
    if routes.champion is None:
        return "no plan: there is no champion to compare a first version with"
    profile = read_profile(log, definition, days=days, now_event_ms=now_event_ms)
    if profile is None or profile.busy_hours < LEAST_HOURS:
        return f"no plan: fewer than {LEAST_HOURS} hours of traffic in the log"
    return plan_rollout(definition, profile, predicted(validation, routes), validation)


def plan_rollout(
    definition: ModelDefinition,
    profile: TrafficProfile,
    prediction: Prediction,
    validation: Evidence,
) -> Plan:
    """The plan at this traffic."""
    expected = expected_alerts(profile, prediction, validation)
    stages = tuple(stages_of(definition, prediction))
    steps = tuple(plan_stage(profile, stage, expected) for stage in stages)
    confirmation = _confirmation(definition, profile, steps[0], prediction)
    refused = refusals(profile, stages, steps, expected)
    notes = _notes(definition, profile, prediction, expected, confirmation)
    return Plan(
        history_h=profile.hours,
        requests_h=profile.requests_h,
        steps=steps,
        confirmation=confirmation,
        refusals=refused,
        notes=(*doubts(steps, refused), *notes),
        proposed=proposed(profile, stages, expected),
    )


def stages_of(definition: ModelDefinition, prediction: Prediction) -> Iterator[Stage]:
    """The steps of the ramp, as model.yaml has them."""
    policy = definition.rollout
    every: tuple[ShadowStep | CanaryStep, ...] = (policy.shadow, *policy.canary)
    for number, asked in enumerate(every):
        limits = step_limits(policy, asked, prediction)
        if limits.step is None:
            continue
        key, name = "rollout.shadow", "shadow"
        if isinstance(asked, CanaryStep):
            key, name = f"rollout.canary.{number - 1}", f"canary {asked.percent:g} %"
        yield Stage(
            key=key,
            name=name,
            deadline_h=asked.deadline_h,
            failure_share=limits.failure_share,
            step=limits.step,
        )


def expected_alerts(
    profile: TrafficProfile, prediction: Prediction, validation: Evidence
) -> Alerts | None:
    """What a challenger's alerts will be, if it is as replay said; None: nothing is known."""
    champion = profile.alerts
    if not champion > 0:
        return None
    own = champion * prediction.alert_ratio
    replayed = validation.get("replayed") or {}
    apart = prediction.disagreement if prediction.replayed else ALONE_UNKNOWN
    return Alerts.predicted(
        own, champion, apart,
        replayed=int(replayed.get("payments", 0)), told=prediction.alert_share,
    )  # fmt: skip


def _confirmation(
    definition: ModelDefinition,
    profile: TrafficProfile,
    shadow: StagePlan,
    prediction: Prediction,
) -> Confirmation | None:
    policy = definition.rollout
    if policy.confirm_recall_drop is None:
        return None
    return plan_confirmation(
        profile,
        shadow,
        limit=policy.stop.recall,
        tolerance=policy.confirm_recall_drop,
        errors=gate_errors(policy),
        alone=prediction.disagreement if prediction.replayed else ALONE_UNKNOWN,
    )


def _notes(
    definition: ModelDefinition,
    profile: TrafficProfile,
    prediction: Prediction,
    expected: Alerts | None,
    confirmation: Confirmation | None,
) -> Iterator[str]:
    if expected is None:
        yield "the champion has raised no alert: gates on alerts are not planned"
    if not prediction.replayed and definition.rollout.shadow.tolerance.disagreement is not None:
        yield (
            "this pair of versions was never replayed: disagreement holds it in shadow until the "
            "version is validated against the present champion"
        )
    if not profile.frauds > 0:
        yield "no label has told a fraud: when a promotion can be confirmed is not planned"
    elif confirmation is not None and confirmation.passes < SURE:
        more = confirmation.requests
        wanted = f"; rollout.shadow.minimum_requests: {more} would do" if more else ""
        yield (
            f"the {confirmation.frauds:,} frauds of the shadow phase confirm "
            f"{100 * confirmation.passes:.0f} % of the versions as good as the champion, and the "
            f"others stay provisional{wanted}"
        )


def recorded(plan: Plan | str, despite: str = "") -> RolloutPlan:
    """What the journal keeps of a plan.

    Args:
        despite: why somebody goes on with one that is refused.
    """
    if isinstance(plan, str):
        return RolloutPlan(missing=plan)
    return RolloutPlan(
        history_h=round(plan.history_h, 3),
        requests_h=round(plan.requests_h, 3),
        steps=tuple(_recorded(step) for step in plan.steps),
        refusal=plan.refusal,
        despite=despite if plan.refusal else "",
    )


def _recorded(step: StagePlan) -> PlannedStep:
    return PlannedStep(
        percent=step.percent,
        hours=None if step.hours is None else round(step.hours, 3),
        deadline_h=step.deadline_h,
        passes=round(step.passes, 3),
        decides=step.decides,
        exposed=max((g.exposed_customers for g in step.gates), default=0),
    )
