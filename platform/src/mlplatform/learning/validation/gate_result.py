"""The result of one gate on a candidate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from mlplatform.runtime.figures import percent
from mlplatform.runtime.times import day_text
from mlplatform.runtime.units import DAY_MS

Verdict = Literal["passed", "failed", "inconclusive"]
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
