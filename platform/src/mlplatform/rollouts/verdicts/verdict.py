"""One gate: what it is held to, and its answer in words and numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mlplatform.rollouts.verdicts.statistics import Difference
from mlplatform.runtime.figures import percent

Verdict = Literal["HEALTHY", "UNHEALTHY", "INCONCLUSIVE"]

NEARLY_CERTAIN = 0.001
"""A smaller error is given as "more than 99.9 % certain": further digits tell a reader nothing."""
LEAST_TOLD = 0.001
"""A smaller share has more than two places after its point."""


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

    @property
    def headline(self) -> str:
        """The first sentence of the reason, which is the verdict in plain words."""
        said = self.reason.partition(". ")[0].rstrip(".")
        return f"{said[:1].upper()}{said[1:]}."


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
        tolerance: None where the step does not ask; then only proven harm is reported.
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
        proven: what the lower bound says, as a clause.
        excluded: what the upper bound says, as a clause. still_open: the same, of what is too much.
        figures: what was counted, in sentences.
        stop_low, pass_high: the bounds; NaN where nothing can be said.
        unit: how a harm is written.
    """

    proven: str
    excluded: str
    still_open: str
    figures: str
    stop_low: float
    pass_high: float
    unit: Callable[[float], str]


def bounded(
    name: str, harm: Harm, bound: Bound, errors: Errors, values: dict[str, float | int | None]
) -> Gate:
    """The gate on a harm: a sentence that is the verdict, one of figures, one of what is asked."""
    verdict = bound.verdict(harm.stop_low, harm.pass_high)
    if verdict == "UNHEALTHY":
        said = f"{harm.proven} ({sure(errors.stop)})."
        asked = f"The limit is {harm.unit(bound.limit)}."
    elif bound.tolerance is None:
        said = (
            "No harm beyond the limit is proven, and this step asks for no more. "
            f"{harm.still_open} ({sure(errors.missed)})."
        )
        asked = f"The limit is {harm.unit(bound.limit)}."
    else:
        shown = harm.excluded if verdict == "HEALTHY" else harm.still_open
        said = f"{shown} ({sure(errors.missed)})."
        asked = f"Allowed: {harm.unit(bound.tolerance)}."
    held_to = {
        "stop": bound.limit, "limit": bound.tolerance, "proven": number_of(harm.stop_low)
    }  # fmt: skip
    return Gate(name, verdict, f"{said} {harm.figures} {asked}", values | held_to)


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
    written = rounded(100 * share)
    return f"{written} point" if written == "1" else f"{written} points"


def rounded(value: float) -> str:
    """A number to two significant digits, or to the whole where it has more before its point."""
    if not value or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:,.0f}"


def of_all(hits: int, trials: int, what: str) -> str:
    """Some of many, with their share where there are any."""
    if not trials:
        return f"{hits:,} of {trials:,} {what}"
    share = hits / trials
    few = 0 < share < LEAST_TOLD
    return f"{hits:,} of {trials:,} {what} ({in_percent(share) if few else percent(share)})"


def in_percent(share: float) -> str:
    """A bound, in percent, as `rounded`."""
    return f"{rounded(100 * share)} %"


def sure(error_share: float) -> str:
    """How certain a bound is, in words."""
    if error_share < NEARLY_CERTAIN:
        return f"more than {100 * (1 - NEARLY_CERTAIN):g} % certain"
    return f"{100 * (1 - error_share):.3g} % certain"
