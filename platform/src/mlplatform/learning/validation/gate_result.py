"""The result of one gate on a candidate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlplatform.runtime.figures import percent

Verdict = Literal["passed", "failed", "inconclusive"]


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


def window_text(units_share: float) -> str:
    """The extent of a training set, in words: the window, or a share (0-1) of its customers."""
    if units_share >= 1:
        return "in the window"
    return f"in the window, of {percent(units_share)} of the customers (training.maximum_rows)"
