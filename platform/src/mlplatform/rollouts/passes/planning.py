"""The plan of a rollout, from model.yaml, the validation report and the traffic of the last
days."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from mlplatform.decisions.records.port import DecisionLog
from mlplatform.learning.validation.report_entries import ValidationReport, replayed_of
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.policies.rollout import CanaryStep, ShadowStep, Tolerance
from mlplatform.model.routes import Routes
from mlplatform.rollouts.journal.transitions import PlannedStep, RolloutPlan
from mlplatform.rollouts.passes.error_parts import outcome_errors
from mlplatform.rollouts.passes.history import read_profile
from mlplatform.rollouts.passes.observe import (
    immaterial_us,
    predicted_segments,
    prediction_of,
    step_limits,
)
from mlplatform.rollouts.verdicts.comparison import SegmentStep
from mlplatform.rollouts.verdicts.judgement import ALONE
from mlplatform.rollouts.verdicts.planner import (
    DECIDES,
    SURE,
    Confirmation,
    Stage,
    StagePlan,
    plan_confirmation,
    plan_stage,
)
from mlplatform.rollouts.verdicts.ramp import (
    Plan,
    Refusal,
    Remedy,
    doubts,
    propose_stages,
    refusals,
    tails_not_asked,
)
from mlplatform.rollouts.verdicts.simulated_paths import Alerts
from mlplatform.rollouts.verdicts.traffic_profile import TrafficProfile
from mlplatform.rollouts.verdicts.verdict import Prediction
from mlplatform.runtime.times import duration_text, utc_minute_text
from mlplatform.runtime.units import DAY_H, HOUR_MS, HOUR_S

PLANNED_DAYS = 7.0
LEAST_HOURS = 24
"""Least hours of event time with traffic: fewer do not show how day and night differ."""
NO_CHAMPION = "no plan: there is no champion to compare a first version with"
ALONE_UNKNOWN = 0.3
"""The share of the positives that only one of two versions finds, where no replay has shown it."""


def rollout_plan(
    definition: ModelDefinition,
    log: DecisionLog,
    routes: Routes,
    validation: ValidationReport,
    *,
    days: float,
    now_event_ms: int,
) -> Plan | str:
    """The plan of a rollout, or why there is none.

    Args:
        validation: gate report of the challenger; empty if it has none.
        days: number of days of event time that are read from the log.
    """
    if routes.champion is None:
        return NO_CHAMPION
    profile = read_profile(log, definition, days=days, now_event_ms=now_event_ms)
    busy_hours = 0 if profile is None else profile.busy_hours
    if profile is None or busy_hours < LEAST_HOURS:
        earliest_ms = now_event_ms + (LEAST_HOURS - busy_hours) * HOUR_MS
        return (
            f"no plan: the log holds {busy_hours} of the {LEAST_HOURS} hours with traffic that a "
            f"plan needs; it is possible from {utc_minute_text(earliest_ms)} on at the earliest, "
            "with requests in each hour until then"
        )
    return plan_rollout(
        definition,
        profile,
        prediction_of(validation, routes),
        validation,
        predicted_segments(validation, routes),
    )


def plan_rollout(
    definition: ModelDefinition,
    profile: TrafficProfile,
    prediction: Prediction,
    validation: ValidationReport,
    of_segments: Mapping[str, Prediction] | None = None,
) -> Plan:
    """The plan of a rollout at this traffic.

    Args:
        of_segments: name of a segment → prediction from the replay of its own requests; segments
            without enough requests are left out.
    """
    expected = None
    if definition.task == "binary":
        expected = expected_alerts(profile, prediction)
    stages = tuple(stages_of(definition, prediction, of_segments))
    steps = tuple(plan_stage(profile, stage, expected) for stage in stages)
    confirmation = _confirmation(definition, profile, steps[0], prediction)
    refused = refusals(profile, stages, steps, expected)
    segments = segment_plans(profile, stages[0], validation, of_segments or {})
    refused = (*refused, *_segment_refusals(stages[0], segments))
    notes = (
        *tails_not_asked(profile, stages),
        *_notes(definition, profile, prediction, expected, confirmation),
        *_short_steps(stages, steps),
        *_segment_notes(stages[0], segments),
    )
    return Plan(
        history_h=profile.hours,
        requests_h=profile.requests_h,
        steps=steps,
        confirmation=confirmation,
        refusals=refused,
        notes=(*doubts(steps, refused), *notes),
        proposed=propose_stages(profile, stages, expected),
    )


def segment_plans(
    profile: TrafficProfile,
    shadow: Stage,
    validation: ValidationReport,
    of_segments: Mapping[str, Prediction],
) -> dict[str, StagePlan]:
    """The plan of the shadow step for each segment by itself, if replay had enough of the segment's
    requests."""
    replayed = replayed_of(validation)
    found: dict[str, StagePlan] = {}
    for segment in shadow.step.segments:
        if replayed is None or (prediction := of_segments.get(segment.name)) is None:
            continue
        counts = replayed["segments"][segment.name]
        requests = counts["requests"]
        part = requests / replayed["requests"]
        alone = dataclasses.replace(
            profile,
            requests_h=profile.requests_h * part,
            customers=tuple((n, rate * part) for n, rate in profile.customers),
            repeat_h=profile.repeat_h * part,
            alerts=counts["champion_alerts"] / requests,
            alert_repeat_h=profile.alert_repeat_h * part,
        )
        expected = expected_alerts(alone, prediction)
        found[segment.name] = plan_stage(alone, _alone(shadow, segment), expected)
    return found


def _alone(shadow: Stage, segment: SegmentStep) -> Stage:
    """The shadow step for one segment's gates, which ask for no sample and for no answers in
    time."""
    stop, shown = segment.stop, segment.tolerance
    step = dataclasses.replace(
        shadow.step,
        stop=msgspec.structs.replace(
            shadow.step.stop, alerts=stop.alerts, disagreement=stop.disagreement
        ),
        tolerance=Tolerance(failures=1.0, alerts=shown.alerts, disagreement=shown.disagreement),
        errors=segment.errors,
        predicted=segment.predicted,
        units=1,
        requests=1,
        segments=(),
    )
    name = f"{shadow.name}, segment {segment.name},"
    return dataclasses.replace(shadow, name=name, step=step, failure_share=0.5, minimum_h=0.0)


def _segment_refusals(shadow: Stage, plans: Mapping[str, StagePlan]) -> Iterator[Refusal]:
    """The required segments that shadow is too short for."""
    for number, segment in enumerate(shadow.step.segments):
        plan = plans.get(segment.name)
        if plan is None or not segment.holds or plan.passes >= DECIDES:
            continue
        key = f"rollout.segments.groups.{number}.required"
        ways = [(Remedy(key, 1, 0),)]
        if plan.late_hours is not None:
            longer = math.ceil(plan.late_hours)
            ways.append((Remedy(f"{shadow.key}.deadline_h", shadow.deadline_h, longer),))
        yield Refusal(plan, tuple(ways))


def _segment_notes(shadow: Stage, plans: Mapping[str, StagePlan]) -> Iterator[str]:
    for segment in shadow.step.segments:
        plan, then = plans.get(segment.name), "Shadow waits for it until its deadline"
        if not segment.holds:
            then = "No step waits for it"
        if plan is None:
            yield f"segment {segment.name}: its replay holds too few alerts for a plan. {then}"
            continue
        gates = [gate for gate in plan.gates if gate.gate != "failures"]
        caught = ", ".join(f"{g.gate} {100 * g.stops:.0f} %" for g in gates)
        takes = "longer than the plan looks ahead"
        if plan.hours is not None:
            takes = duration_text(plan.hours * HOUR_S)
        yield (
            f"segment {segment.name}: its gates take {takes}. Of the challengers as good as the "
            f"champion, {100 * plan.passes:.0f} % pass them in time. Chance that shadow stops a "
            f"challenger with twice a limit: {caught}. {then}"
        )


def stages_of(
    definition: ModelDefinition,
    prediction: Prediction,
    of_segments: Mapping[str, Prediction] | None = None,
) -> Iterator[Stage]:
    """The steps of the ramp, as model.yaml has them."""
    policy = definition.rollout
    every: tuple[ShadowStep | CanaryStep, ...] = (policy.shadow, *policy.canary)
    for number, step in enumerate(every):
        limits = step_limits(
            policy,
            step,
            prediction,
            of_segments=of_segments,
            immaterial_us=immaterial_us(definition),
        )
        if limits.step is None:
            continue
        key, name = "rollout.shadow", "shadow"
        if isinstance(step, CanaryStep):
            key, name = f"rollout.canary.{number - 1}", f"canary {step.percent:g} %"
        yield Stage(
            key=key,
            name=name,
            deadline_h=step.deadline_h,
            failure_share=limits.failure_share,
            step=limits.step,
            minimum_h=step.minimum_h or 0.0,
        )


def expected_alerts(profile: TrafficProfile, prediction: Prediction) -> Alerts | None:
    """The alerts expected of a challenger that is as replay predicted; None if nothing is known."""
    champion = profile.alerts
    if not champion > 0:
        return None
    own = champion * prediction.alert_ratio
    alone = prediction.one_sided if prediction.replayed else ALONE_UNKNOWN
    return Alerts.predicted(own, champion, alone, prediction)


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
        errors=outcome_errors(policy),
        alone=prediction.one_sided if prediction.replayed else ALONE_UNKNOWN,
    )


def _notes(
    definition: ModelDefinition,
    profile: TrafficProfile,
    prediction: Prediction,
    expected: Alerts | None,
    confirmation: Confirmation | None,
) -> Iterator[str]:
    most = ALONE * definition.rollout.failure_share_limit
    if profile.failed_apart > most:
        yield (
            f"the champion fails {100 * profile.failed_apart:.1f} % of its requests outside of "
            "outages. A version with as many failures passes its steps. It is taken back as "
            f"champion once it is proven to fail more than {100 * most:g} % (twice "
            "rollout.failure_share_limit)"
        )
    if definition.task != "binary":
        yield (
            f"the plan of a model of task {definition.task} covers the sample, answers in time and "
            "latency. Disagreement and labels are judged, but not planned"
        )
    elif expected is None:
        yield "the champion has raised no alert, so gates on alerts are not planned"
    if not prediction.replayed and definition.rollout.shadow.tolerance.disagreement is not None:
        yield (
            "this pair of versions was never replayed. The gate on disagreement holds the version "
            "in shadow until it is validated against the present champion"
        )
    if definition.task != "binary":
        return
    if not profile.positives > 0:
        yield "no label has named a positive yet, so the plan can't date the confirmation"
    elif confirmation is not None and confirmation.passes < SURE:
        wanted = "".join(f". {way}" for way in _ways_to_confirm(profile, confirmation))
        yield (
            f"the {confirmation.positives:,} positives of the shadow phase confirm "
            f"{100 * confirmation.passes:.0f} % of the versions as good as the champion. The "
            f"others stay provisional{wanted}"
        )


def _short_steps(stages: Sequence[Stage], steps: Sequence[StagePlan]) -> Iterator[str]:
    """The steps that end within a day, and so may see no night and no busy hour."""
    short = [
        stage
        for stage, step in zip(stages, steps, strict=True)
        if step.hours is not None and step.hours < DAY_H <= stage.deadline_h
    ]
    if short:
        named = " and ".join(stage.name for stage in short)
        keys = " and ".join(f"{stage.key}.minimum_h: {DAY_H:g}" for stage in short)
        yield f"{named} may end before all hours of a day were seen. With {keys} they last a day"


def _ways_to_confirm(profile: TrafficProfile, found: Confirmation) -> Iterator[str]:
    if found.requests:
        takes = duration_text(found.requests / profile.requests_h * HOUR_S)
        yield (
            f"{100 * SURE:.0f} % are confirmed with rollout.shadow.minimum_requests: "
            f"{found.requests}, which takes {takes}"
        )
    if not found.hidden:
        return
    if not found.requests:
        yield "No sample is large enough, because decisions hide too many outcomes"
    if found.exploration is not None:
        yield f"{100 * SURE:.0f} % are confirmed with exploration.share: {found.exploration:g}"


def recorded_plan(plan: Plan | str, despite: str = "") -> RolloutPlan:
    """The plan in the form that the journal keeps.

    Args:
        despite: reason why somebody opens the rollout although the plan refuses it; empty if nobody
            does.
    """
    if isinstance(plan, str):
        return RolloutPlan(missing=plan)
    return RolloutPlan(
        history_h=round(plan.history_h, 3),
        requests_h=round(plan.requests_h, 3),
        steps=tuple(_planned_step(step) for step in plan.steps),
        refusal=plan.refusal,
        despite=despite if plan.refusal else "",
    )


def _planned_step(step: StagePlan) -> PlannedStep:
    return PlannedStep(
        percent=step.percent,
        hours=None if step.hours is None else round(step.hours, 3),
        deadline_h=step.deadline_h,
        passes=round(step.passes, 3),
        decides=step.decides,
        exposed=max((g.exposed_customers for g in step.gates), default=0),
    )
