"""The result of one gate on a candidate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from mlplatform.learning.validation.statistics import MINIMUM_UNITS, QUALITY_LEVEL, Interval
from mlplatform.runtime.figures import percent
from mlplatform.runtime.times import day_text
from mlplatform.runtime.units import DAY_MS

Verdict = Literal["passed", "failed", "inconclusive"]
MINIMUM_LABELLED: Final = 100
"""Labels of classes or numbers, with fewer of which nothing is shown."""
OF_A_SEGMENT: Final = "segment_"
"""Begins the names of gates on segments, before the segment's name."""


@dataclass(frozen=True, slots=True)
class GateResult:
    """The observed value of one gate, its limit, its verdict and the reason.

    Args:
        reason: a sentence with units, for people responsible for the version.
        interval: ends of the interval of the observed value, for a gate that compares an end with
            the limit; None for other gates.
    """

    name: str
    verdict: Verdict
    observed: float | None
    limit: float | None
    reason: str
    interval: tuple[float, float] | None = None


def window_text(units_share: float, to_ms: int, days: int) -> str:
    """The extent of a training set, in words: its days, and its share (0-1) of the customers.

    Args:
        to_ms: the midnight at which it ends, epoch milliseconds.
        days: `training.window_days`.
    """
    first, last = day_text(to_ms - days * DAY_MS), day_text(to_ms - 1)
    window = f"in the window of {first} to {last} (training.window_days)"
    if units_share >= 1:
        return window
    return f"{window}, of {percent(units_share)} of the customers (training.maximum_rows)"


def too_few_units(units: int) -> str | None:
    """The reason why so few customers show nothing; None if they are enough."""
    if units >= MINIMUM_UNITS:
        return None
    return f"only {units:,} customers to judge by (at least {MINIMUM_UNITS:,} wanted)"


def not_shown(units: int, key: str = "", *, positives: int | None = None) -> str:
    """The words about a limit that is neither held nor broken, and the way out.

    Args:
        key: the key of the limit in model.yaml; empty if it has none.
        positives: number of positives that would show it; None if nobody can say.
    """
    enough = f" ({positives or 0:,} positives with this value would be enough)"
    would = "" if positives is None else enough
    looser = f", or loosen {key}" if key else ""
    return f"; {units:,} customers are too few to show it{would}: wait for more labels{looser}"


def enough_positives(positives: int, interval: Interval, limit: float) -> int | None:
    """The number of positives, to two digits, whose interval would end at the limit with the same
    value: widths shrink with the root of their number. None if the value is not above the limit."""
    width, room = interval.value - interval.low, interval.value - limit
    if not (room > 0 and math.isfinite(width)):
        return None
    number = positives * max(width / room, 1.0) ** 2
    digits = max(math.floor(math.log10(number)) - 1, 0)
    return int(math.ceil(number / 10**digits) * 10**digits)


def floor_gate(
    name: str,
    interval: Interval,
    limit: float,
    text: str,
    form: str,
    more: str,
    measure: str = "average precision",
) -> GateResult:
    """A gate that passes if the whole interval is at or above the limit.

    Args:
        more: the end of the reason if the limit lies within the interval (`not_shown`).
    """
    value, low, high = interval.value, interval.low, interval.high
    if any(math.isnan(v) for v in (value, low, high)):
        return GateResult(name, "inconclusive", None, limit, f"{measure} is not a number")
    level = f"{100 * QUALITY_LEVEL:g} % interval {form.format(low)} to {form.format(high)}"
    reason = f"{text} ({level}; all of it must be {form.format(limit)} or more)"
    passed: Verdict = "passed" if low >= limit else "failed" if high < limit else "inconclusive"
    reason += more if passed == "inconclusive" else ""
    return GateResult(name, passed, value, limit, reason, (low, high))
