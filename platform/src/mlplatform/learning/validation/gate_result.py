"""The result of one gate on a candidate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
