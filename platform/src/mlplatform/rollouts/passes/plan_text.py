"""A rollout's plan for people: tables for a terminal, sentences, and plain values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from mlplatform.model.policies.rollout import RolloutPolicy
from mlplatform.rollouts.journal.basis_evidence import PlanEvidence
from mlplatform.rollouts.journal.state import RolloutState
from mlplatform.rollouts.journal.transitions import PlannedStep, RolloutPlan
from mlplatform.rollouts.verdicts.planner import HARM, LONGEST, Confirmation
from mlplatform.rollouts.verdicts.ramp import Plan, steps_text
from mlplatform.runtime.text import markdown
from mlplatform.runtime.times import duration_text, utc_minute_text
from mlplatform.runtime.units import HOUR_MS, HOUR_S

STEP_COLUMNS = ("step", "customers", "takes", "deadline", "passes in time", "decided by")
NEED_COLUMNS = ("step", "gate", "tolerance", "takes", "requests", "customers", "passes")
HARM_COLUMNS = ("step", "gate", "stopped", "customers", "go wrong")
PROPOSED: Final = "proposed steps for model.yaml, with fewer customers or stricter tolerances:"
DECIDES: Final = "the rollout can decide within its deadlines"


def traffic(plan: Plan) -> str:
    """The traffic that the plan was made from."""
    read = duration_text(plan.history_h * HOUR_S)
    return f"{plan.requests_h:,.0f} requests/h, by {read} of the decision log"


def step_rows(plan: Plan) -> list[tuple[str, ...]]:
    """A row for each step."""
    return [
        (
            step.name,
            "none" if step.percent is None else f"{step.percent:g} %",
            length(step.hours, step.deadline_h),
            duration_text(step.deadline_h * HOUR_S),
            _chance(step.passes),
            step.decides,
        )
        for step in plan.steps
    ]


def need_rows(plan: Plan) -> list[tuple[str, ...]]:
    """A row for each gate of each step: what a challenger as good as the champion needs."""
    return [
        (
            step.name,
            gate.gate,
            f"{gate.tolerance:g}",
            length(gate.hours, step.deadline_h),
            f"{gate.requests:,}",
            f"{gate.customers:,}",
            _chance(gate.passes),
        )
        for step in plan.steps
        for gate in step.gates
        if gate.tolerance is not None
    ]


def harm_rows(plan: Plan) -> list[tuple[str, ...]]:
    """A row for each gate of each step: the harm that a challenger with `HARM` times the limit does
    by its end."""
    return [
        (
            step.name,
            gate.gate,
            _chance(gate.stops),
            *(
                ("none", "none")
                if step.percent is None
                else (f"{gate.exposed_customers:,}", f"{gate.loss:,.1f}")
            ),
        )
        for step in plan.steps
        for gate in step.gates
    ]


def harm_title() -> str:
    """The title of the table of `harm_rows`."""
    return (
        f"what a challenger with {HARM:g} times the harm that a limit allows does until it is "
        "stopped or the step ends"
    )


def conclusions(plan: Plan) -> Iterator[str]:
    """The conclusions from the tables, one line each."""
    yield from _findings(plan)
    if plan.proposed:
        yield PROPOSED
        yield from steps_text(plan.proposed).splitlines()
    if not plan.refusals:
        yield DECIDES


def page(subject: str, plan: Plan | str) -> str:
    """A plan, or why there is none, in Markdown; its tables are left out.

    Args:
        subject: what is planned, in words.
    """
    head = [f"## The plan of {markdown(subject)}", ""]
    if isinstance(plan, str):
        return "\n".join([*head, markdown(plan), ""])
    lines = [*head, f"{traffic(plan)}.", "", *(f"- {markdown(f)}" for f in _findings(plan))]
    if plan.proposed:
        lines += ["", f"{PROPOSED}", "", "```yaml", steps_text(plan.proposed), "```"]
    if not plan.refusals:
        lines.append(f"- {DECIDES}")
    return "\n".join([*lines, ""])


def outcome(plan: Plan | str) -> str:
    """The result of a plan in one line: that it can decide, or the first reason why not."""
    if isinstance(plan, str):
        return plan
    return f"refused: {plan.refusals[0]}" if plan.refusals else DECIDES


def _findings(plan: Plan) -> Iterator[str]:
    if plan.hours is not None:
        together = length(plan.hours)
        yield f"shadow and canary together take {together}, without the wait for an approval"
    caught = ", ".join(f"{gate} {_chance(chance)}" for gate, chance in plan.stops.items())
    yield (
        f"chance that some step stops a challenger with {HARM:g} times the harm that a limit "
        f"allows: {caught}"
    )
    if plan.confirmation is not None:
        yield from _confirmation_lines(plan.confirmation)
    yield from (f"note: {note}" for note in plan.notes)
    yield from (f"refused: {refusal}" for refusal in plan.refusals)


def _confirmation_lines(found: Confirmation) -> Iterator[str]:
    yield f"confirmation: {found.positives:,} positives are expected in shadow"
    yield (
        f"confirmation: of the versions as good as the champion, {_chance(found.passes)} are "
        "confirmed"
    )
    yield (
        f"confirmation: of the versions that miss {HARM:g} times as many positives as the limit "
        f"allows, {_chance(found.stops)} are taken back"
    )
    if found.hidden:
        yield (
            f"confirmation: the champion stops {found.hidden:,} requests in shadow, and "
            f"{found.let_through:,} of them are let through to learn their outcome"
        )
        yield "confirmation: its bounds allow for any outcome of the stopped requests"


def without_plan(model: str, version: int | None, policy: RolloutPolicy) -> tuple[str, str]:
    """Sentences on what a person may do while there is no plan: open the rollout all the same, or
    promote in an emergency."""
    shadow, named = policy.shadow, "VERSION" if version is None else version
    opens = f"mlplatform rollouts open {model} {named} --actor YOU --reason WHY"
    return (
        f"a rollout needs no plan: `{opens}` starts it in shadow, which takes at least "
        f"{shadow.minimum_requests:,} requests of {shadow.minimum_units:,} customers and ends "
        f"after {duration_text(shadow.deadline_h * HOUR_S)} at the latest",
        f"in an emergency, `{opens} --emergency` promotes it at once, and a second person has a day"
        " to confirm it",
    )


def as_values(plan: Plan | str) -> dict[str, Any]:
    """The plan as JSON can hold it."""
    if isinstance(plan, str):
        return {"missing": plan}
    return {
        "history_h": plan.history_h,
        "requests_h": plan.requests_h,
        "hours": plan.hours,
        "steps": [dataclasses.asdict(step) for step in plan.steps],
        "stops": plan.stops,
        "confirmation": plan.confirmation and dataclasses.asdict(plan.confirmation),
        "refusals": [_refusal(plan, number) for number in range(len(plan.refusals))],
        "notes": list(plan.notes),
        "proposed": steps_text(plan.proposed) if plan.proposed else None,
    }


def _refusal(plan: Plan, number: int) -> dict[str, Any]:
    refusal = plan.refusals[number]
    ways = [[dataclasses.asdict(remedy) for remedy in way] for way in refusal.remedies]
    return {"step": refusal.step.key, "reason": str(refusal), "possible_with": ways}


def length(hours: float | None, deadline_h: float | None = None) -> str:
    """A length of time in words; None means longer than the plan looks ahead."""
    if hours is not None and math.isfinite(hours):
        return duration_text(hours * HOUR_S)
    if deadline_h is None:
        return "longer than the plan looks ahead"
    return f"more than {duration_text(LONGEST * deadline_h * HOUR_S)}"


def running_step(state: RolloutState) -> PlannedStep | None:
    """The plan's step that the rollout is in; None where no traffic decides, or without a plan."""
    if state.plan is None or state.phase not in ("shadow", "canary"):
        return None
    percent = state.percent if state.phase == "canary" else None
    return next((step for step in state.plan.steps if step.percent == percent), None)


def expected(state: RolloutState) -> tuple[str, ...]:
    """Sentences on when the running step is decided, and how long the whole ramp takes, in event
    time; empty for a rollout that does not ramp or has no plan."""
    plan, step = state.plan, running_step(state)
    if plan is None or not state.ramping:
        return ()
    if plan.missing:
        return (f"The rollout has no plan: {plan.missing.removeprefix('no plan: ')}.",)
    if not plan.steps:
        return ()
    found = [] if step is None else [_step_expected(state, step)]
    hours = [s.hours for s in plan.steps]
    whole = sum(h for h in hours if h is not None)
    more = "more than " if None in hours else ""
    found.append(
        f"Shadow and canary together were planned to take {more}{duration_text(whole * HOUR_S)},"
        f" without the wait for an approval: {whole_ramp(plan)}."
    )
    return tuple(found)


def _step_expected(state: RolloutState, step: PlannedStep) -> str:
    begun_ms = state.since_event_ms + sum(pause.event_ms for pause in state.pauses)
    deadline = utc_minute_text(round(begun_ms + step.deadline_h * HOUR_MS))
    takes = length(step.hours, step.deadline_h)
    since = f"The step {_place(step)} began on {utc_minute_text(state.since_event_ms)}"
    paused = ", later by as long as the pause lasts" if state.paused is not None else ""
    if step.hours is None or step.hours > step.deadline_h:
        return f"{since} and was planned to take {takes}. Its deadline is {deadline}{paused}."
    decided = utc_minute_text(round(begun_ms + step.hours * HOUR_MS))
    return (
        f"{since} and was planned to take {takes}: its decision is expected about {decided}, and"
        f" its deadline is {deadline}{paused}."
    )


def whole_ramp(plan: RolloutPlan) -> str:
    """The plan's steps in one line, or why there is no plan."""
    if plan.missing:
        return plan.missing
    steps = (f"{length(s.hours, s.deadline_h)} {_place(s)}" for s in plan.steps)
    despite = f"; opened despite its plan: {plan.despite}" if plan.despite else ""
    return f"{', '.join(steps)}, at a traffic of {plan.requests_h:,.0f} requests/h{despite}"


def _place(step: PlannedStep) -> str:
    return "in shadow" if step.percent is None else f"at {step.percent:g} % of the customers"


def next_step(plan: RolloutPlan, percent: float) -> str:
    """The plan's sentence about the canary step after the step with this share."""
    if plan.missing:
        return plan.missing
    coming = next((s for s in plan.steps if (s.percent or 0.0) > percent), None)
    if coming is None:
        return "no step of the plan follows"
    return step_sentence(plan, coming)


def step_sentence(plan: RolloutPlan, step: PlannedStep) -> str:
    """The time that a step takes, its chance to decide, and the customers that a bad challenger
    reaches."""
    sentence = (
        f"The step {_place(step)} is planned to take {length(step.hours, step.deadline_h)} at a "
        f"traffic of {plan.requests_h:,.0f} requests/h. Its deadline is "
        f"{duration_text(step.deadline_h * HOUR_S)}. Its slowest gate is {step.decides}. "
        f"Of the challengers as good as the champion, {_chance(step.passes)} pass in time. "
        f"A challenger with {HARM:g} times the harm that a limit allows reaches "
        f"{step.exposed:,} customers before it is stopped."
    )
    return f"{sentence} Opened despite its plan: {plan.despite}." if plan.despite else sentence


def from_evidence(plan: PlanEvidence) -> RolloutPlan:
    """The plan that evidence holds."""
    return msgspec.convert(plan, RolloutPlan)


def _chance(share: float) -> str:
    return f"{100 * share:.0f} %"
