"""A rollout's plan for people: tables for a terminal, sentences, and plain values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from mlplatform.rollouts.journal.basis_evidence import PlanEvidence
from mlplatform.rollouts.journal.transitions import PlannedStep, RolloutPlan
from mlplatform.rollouts.verdicts.planner import HARM, LONGEST, Confirmation, StagePlan
from mlplatform.rollouts.verdicts.ramp import Plan, steps_text

_KEYS: Final = {"positives": "frauds", "hidden": "declined"}
"""Names of the fields in a plan's JSON."""

STEP_COLUMNS = ("step", "customers", "takes", "deadline", "passes in time", "decided by")
NEED_COLUMNS = ("step", "gate", "tolerance", "takes", "requests", "customers", "passes")
HARM_COLUMNS = ("step", "gate", "stopped", "customers", "go wrong")


def traffic(plan: Plan) -> str:
    """The traffic that the plan was made from."""
    return f"{plan.requests_h:,.0f} requests/h, by {plan.history_h:,.0f} h of the decision log"


def step_rows(plan: Plan) -> list[tuple[str, ...]]:
    """A row for each step."""
    return [
        (
            step.name,
            "none" if step.percent is None else f"{step.percent:g} %",
            length(step.hours, step.deadline_h),
            f"{step.deadline_h:g} h",
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
    return f"a challenger with {HARM:g} times the limit, until it is stopped or the step ends"


def conclusions(plan: Plan) -> Iterator[str]:
    """The conclusions from the tables, one line each."""
    if plan.hours is not None:
        yield (f"shadow and canary together: {length(plan.hours)}, and the wait for an approval")
    caught = ", ".join(f"{gate} {_chance(chance)}" for gate, chance in plan.stops.items())
    yield f"a bad challenger is stopped in some step: {caught}"
    if plan.confirmation is not None:
        found = plan.confirmation
        yield (
            f"confirmation: {found.positives:,} positives in shadow; {_chance(found.passes)} of "
            f"the versions as good as the champion are confirmed, {_chance(found.stops)} of those "
            f"that miss {HARM:g} times the limit are taken back"
        )
        if found.hidden:
            yield (
                f"of {found.hidden:,} requests that the champion stops in shadow, "
                f"{found.let_through:,} are let through to learn of them; the others may have been "
                "anything, and the confirmation counts with that"
            )
    yield from (f"note: {note}" for note in plan.notes)
    yield from (f"refused: {refusal}" for refusal in plan.refusals)
    if plan.proposed:
        yield "steps that show as much with fewer customers, or more in a day, for model.yaml:"
        yield from steps_text(plan.proposed).splitlines()
    if not plan.refusals:
        yield "the rollout can decide within its deadlines"


def as_values(plan: Plan | str) -> dict[str, Any]:
    """The plan as JSON can hold it."""
    if isinstance(plan, str):
        return {"missing": plan}
    return {
        "history_h": plan.history_h,
        "requests_h": plan.requests_h,
        "hours": plan.hours,
        "steps": [_as_json(step) for step in plan.steps],
        "stops": plan.stops,
        "confirmation": plan.confirmation and _as_json(plan.confirmation),
        "refusals": [_refusal(plan, number) for number in range(len(plan.refusals))],
        "notes": list(plan.notes),
        "proposed": steps_text(plan.proposed) if plan.proposed else None,
    }


def _as_json(part: StagePlan | Confirmation) -> dict[str, Any]:
    return _keyed(dataclasses.asdict(part))


def _keyed(values: dict[str, Any]) -> dict[str, Any]:
    return {
        _KEYS.get(name, name): [_keyed(gate) for gate in held] if name == "gates" else held
        for name, held in values.items()
    }


def _refusal(plan: Plan, number: int) -> dict[str, Any]:
    refusal = plan.refusals[number]
    ways = [[dataclasses.asdict(remedy) for remedy in way] for way in refusal.remedies]
    return {"step": refusal.step.key, "reason": str(refusal), "possible_with": ways}


def length(hours: float | None, deadline_h: float | None = None) -> str:
    """A length of time in words; None means longer than the plan looks ahead."""
    if hours is None or not math.isfinite(hours):
        return "too long" if deadline_h is None else f"> {LONGEST * deadline_h:g} h"
    if hours >= 48:
        return f"{hours / 24:.1f} d"
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def whole_ramp(plan: RolloutPlan) -> str:
    """The plan's steps in one line, or why there is no plan."""
    if plan.missing:
        return plan.missing
    steps = (
        f"{'shadow' if s.percent is None else f'{s.percent:g} %'} {length(s.hours, s.deadline_h)}"
        for s in plan.steps
    )
    despite = f"; opened despite its plan: {plan.despite}" if plan.despite else ""
    return f"{', '.join(steps)}, at {plan.requests_h:,.0f} requests/h{despite}"


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
    name = "shadow" if step.percent is None else f"{step.percent:g} % of the customers"
    sentence = (
        f"Planned for {name}, at {plan.requests_h:,.0f} requests/h: "
        f"{length(step.hours, step.deadline_h)} (deadline {step.deadline_h:g} h), decided by "
        f"{step.decides}; {_chance(step.passes)} of the challengers as good as the champion pass "
        f"in time; one that does {HARM:g} times the harm of a limit reaches {step.exposed:,} "
        "customers before it is stopped."
    )
    return f"{sentence} Opened despite its plan: {plan.despite}." if plan.despite else sentence


def from_evidence(plan: PlanEvidence) -> RolloutPlan:
    """The plan that evidence holds."""
    return msgspec.convert(plan, RolloutPlan)


def _chance(share: float) -> str:
    return f"{100 * share:.0f} %"
