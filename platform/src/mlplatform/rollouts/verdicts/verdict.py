"""One gate's answer, in words and numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mlplatform.rollouts.verdicts.statistics import Share

Verdict = Literal["HEALTHY", "UNHEALTHY", "INCONCLUSIVE"]


@dataclass(frozen=True, slots=True)
class Gate:
    """One question and its answer, with the numbers behind it."""

    name: str
    verdict: Verdict
    reason: str
    values: dict[str, float | int | None]


def values_of(share: Share) -> dict[str, float | int | None]:
    """A share as evidence holds it."""
    return {
        "share": number_of(share.value),
        "low": number_of(share.low),
        "high": number_of(share.high),
        "effective_trials": number_of(share.effective),
    }


def number_of(value: float) -> float | None:
    """The number, short enough to be the same everywhere; None for NaN."""
    return round(value, 9) if math.isfinite(value) else None
