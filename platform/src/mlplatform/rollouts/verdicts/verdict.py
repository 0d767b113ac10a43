"""One gate: what it is held to, and its answer in words and numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mlplatform.rollouts.verdicts.statistics import Difference

Verdict = Literal["HEALTHY", "UNHEALTHY", "INCONCLUSIVE"]


@dataclass(frozen=True, slots=True)
class Gate:
    """One question and its answer, with the numbers behind it.

    Args:
        holds: whether the rollout waits for it where it is inconclusive; unhealthy, it stops.
    """

    name: str
    verdict: Verdict
    reason: str
    values: dict[str, float | int | None]
    holds: bool = True


def number_of(value: float) -> float | None:
    """The number, short enough to be the same everywhere; None for NaN."""
    return round(value, 9) if math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class Errors:
    """How often a gate may be wrong, at one side of one step.

    Args:
        stop: chance of stopping a challenger that is at the limit.
        missed: chance of passing one whose harm is at the tolerance.
    """

    stop: float
    missed: float


@dataclass(frozen=True, slots=True)
class Bound:
    """One gate's two numbers: a challenger is stopped above the limit, passes below the tolerance.

    Args:
        tolerance: None where the step does not ask; then nothing but proven harm is told.
    """

    limit: float
    tolerance: float | None

    def verdict(self, stop_low: float, pass_high: float) -> Verdict:
        """Of harm that lies above `stop_low` and below `pass_high`; NaN proves nothing."""
        if stop_low > self.limit:
            return "UNHEALTHY"
        if self.tolerance is None or pass_high <= self.tolerance:
            return "HEALTHY"
        return "INCONCLUSIVE"


@dataclass(frozen=True, slots=True)
class Harm:
    """How far the challenger is worse, between two bounds.

    Args:
        seen: what was counted, in words.
        proven, left_open: what the lower and the upper bound say, in words.
        stop_low, pass_high: the bounds; NaN where nothing can be told.
        unit: how a harm is written.
    """

    seen: str
    proven: str
    left_open: str
    stop_low: float
    pass_high: float
    unit: Callable[[float], str]


def bounded(
    name: str, harm: Harm, bound: Bound, errors: Errors, values: dict[str, float | int | None]
) -> Gate:
    """The gate on a harm, with a sentence that says what was shown and what is asked."""
    verdict = bound.verdict(harm.stop_low, harm.pass_high)
    if verdict == "UNHEALTHY":
        limit = f"more than {harm.unit(bound.limit)} stops it"
        reason = f"{harm.seen}: {harm.proven} with {sure(errors.stop)} ({limit})"
    else:
        reason = f"{harm.seen}: {harm.left_open} with {sure(errors.missed)}"
        if bound.tolerance is not None:
            unproven = "" if verdict == "HEALTHY" else ": not shown yet"
            reason += f" ({harm.unit(bound.tolerance)} allowed{unproven})"
    held_to = {
        "stop": bound.limit, "limit": bound.tolerance, "proven": number_of(harm.stop_low)
    }  # fmt: skip
    return Gate(name, verdict, reason, values | held_to)


def difference_values(found: Difference) -> dict[str, float | int | None]:
    """A difference of two arms as evidence holds it."""
    return {
        "share": number_of(found.value),
        "low": number_of(found.pass_low),
        "high": number_of(found.pass_high),
        "challenger": number_of(found.challenger),
        "champion": number_of(found.champion),
        "expected": number_of(found.expected),
        "trials": found.trials,
    }


def points(share: float) -> str:
    """A difference of shares, in percentage points."""
    return f"{100 * share:.2g} points"


def sure(error_share: float) -> str:
    """How certain a bound is, in words."""
    return f"{100 * (1 - error_share):.4g} % certainty"
