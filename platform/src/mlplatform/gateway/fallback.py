"""Who is asked for a score, in which order, and how long each may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlplatform.gateway.routing import Assignment
from mlplatform.rollout.routes import Arm, Routes

ModelStep = Literal["champion", "challenger", "previous"]

RESERVE_SHARE = 0.2
"""Of the deadline, kept for rules, the decision and its record."""

FIRST_SHARE = 0.6
"""Of what is left, given to a step that has another one behind it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One predictor to ask."""

    name: ModelStep
    arm: Arm


def steps(routes: Routes, assignment: Assignment) -> tuple[Step, ...]:
    """The predictors to ask, best first: the assigned arm, the champion, its predecessor.

    After the last come the rules of the champion's bundle, and after those the safe default.
    """
    order: list[tuple[ModelStep, Arm | None]] = [
        (assignment.arm, assignment.target),
        ("champion", routes.champion),
        ("previous", routes.previous),
    ]
    found: dict[str, Step] = {}
    for name, arm in order:
        if arm is not None:
            found.setdefault(arm.service, Step(name, arm))
    return tuple(found.values())


def predict_until(start_s: float, deadline_s: float) -> float:
    """When the last predictor must have answered, on the clock of the arguments."""
    return deadline_s - RESERVE_SHARE * (deadline_s - start_s)


def step_until(now_s: float, until_s: float, steps_left: int) -> float:
    """When the next step must have answered, so that the ones behind it get their turn."""
    if steps_left <= 1:
        return until_s
    return now_s + FIRST_SHARE * max(0.0, until_s - now_s)
