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
        interval: where the observed value may lie, for a gate that holds an end of it to the limit.
    """

    name: str
    verdict: Verdict
    observed: float | None
    limit: float | None
    reason: str
    interval: tuple[float, float] | None = None
