"""The order in which predictors are asked for a score, and the slice of the deadline for each.

    arrival ──── features ──── first ─────── next ──── last ──│── reserve ──│ deadline
                 (only when the store is slow)        predict_until

Everything behind the last predictor (small model, rules, safe default) is computed in this process
in microseconds and lives, with the record, in the reserve.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlplatform.decisions.records.record import NAMED
from mlplatform.model.policies.serving import ChainPolicy
from mlplatform.model.routes import Arm, ArmRole, Routes
from mlplatform.scoring.arms.routing import Assignment

ModelStep = ArmRole


@dataclass(frozen=True, slots=True)
class FallbackStep:
    """One predictor to ask."""

    name: ModelStep
    arm: Arm


def steps(routes: Routes, assignment: Assignment) -> tuple[FallbackStep, ...]:
    """The predictors to ask, best first: the assigned arm, the champion, its predecessor.

    After the last come the small model and the rules of the champion's bundle, and after those the
    safe default. A version that the request names is asked alone. A variant of a test stands where
    a challenger would.
    """
    if assignment.arm == NAMED:
        role = next(role for role, arm in routes.roles if arm == assignment.target)
        return (FallbackStep(role, assignment.target),)
    order: list[tuple[ModelStep, Arm | None]] = [
        (assignment.arm, assignment.target),
        ("champion", routes.champion),
        ("previous", routes.previous),
    ]
    found: dict[str, FallbackStep] = {}
    for name, arm in order:
        if arm is not None:
            found.setdefault(arm.service, FallbackStep(name, arm))
    return tuple(found.values())


def predict_until(policy: ChainPolicy, start_s: float, deadline_s: float) -> float:
    """The time by which the last predictor must have answered, on the clock of the arguments."""
    return deadline_s - policy.reserve_share * (deadline_s - start_s)


def features_until(policy: ChainPolicy, start_s: float, deadline_s: float) -> float:
    """The time by which features must have been read, if reading takes so long that one has to
    wait."""
    return start_s + policy.features_share * (deadline_s - start_s)


def step_until(policy: ChainPolicy, now_s: float, until_s: float, steps_left: int) -> float:
    """The time by which the next step must have answered: a share of the rest if other steps
    follow.

    Time that a step does not use goes to the next one. So the slices of an undisturbed chain are
    shares of the whole, and those of a disturbed one never add up to more than there is.

    Args:
        now_s: the present time, on the monotonic clock.
        until_s: the time by which the last step must have answered, on the same clock.
        steps_left: number of steps, including this one.
    """
    if steps_left <= 1:
        return until_s
    return now_s + policy.step_share * max(0.0, until_s - now_s)
