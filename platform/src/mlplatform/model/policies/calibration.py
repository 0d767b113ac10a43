"""The table in a bundle from raw scores to probabilities."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from mlplatform.model.policies.decision_scale import DecisionScale


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table from raw score to probability, linear between knots and flat beyond them; both
    rise."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def probability(self, raw: float) -> float:
        """The probability for one raw score.

        Raises:
            ValueError: the raw score is NaN or infinite.
        """
        if not math.isfinite(raw):
            raise ValueError(f"the raw score is {raw}; wanted: a finite number")
        x, y = self.x, self.y
        i = bisect_right(x, raw)
        if i == 0:
            return y[0]
        if i == len(x):
            return y[-1]
        left = y[i - 1]
        return left + (y[i] - left) * (raw - x[i - 1]) / (x[i] - x[i - 1])

    def probabilities(self, raw: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Probabilities for an array of raw scores; NaN where a raw score is not finite."""
        raw = np.asarray(raw, np.float64)
        return np.where(np.isfinite(raw), np.interp(raw, self.x, self.y), np.nan)


UNCHANGED: Final = Calibration(x=(0.0, 1.0), y=(0.0, 1.0))
"""The calibration that changes nothing, for classes, whose graph gives probabilities."""


ROUNDING: Final = 1e-5
"""How far outside of 0-1 a graph's probability may lie, as float32 sums of many parts round: a
forest of scikit-learn gives 1.0000001. It counts as the nearer end."""


def are_probabilities(raw: np.ndarray[Any, Any]) -> bool:
    """Whether all raw scores are 0-1, or outside by no more than `ROUNDING`; NaN is not."""
    return bool(np.all((raw >= -ROUNDING) & (raw <= 1 + ROUNDING)))


def held(raw: float) -> float:
    """A probability, set to the nearer end of 0-1 where it lies outside; NaN stays NaN."""
    return min(max(raw, 0.0), 1.0)


def held_many(raw: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Probabilities as `held` gives them, in float64."""
    result: np.ndarray[Any, Any] = np.clip(np.asarray(raw, np.float64), 0.0, 1.0)
    return result


class ScoreMap(NamedTuple):
    """The function from raw scores to scores that decide, for one score and for an array."""

    one: Callable[[float], float]
    many: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]


def score_map(scale: DecisionScale, calibration: Calibration) -> ScoreMap:
    """The score map of a calibration; for a scale of numbers, the one that holds them to their
    range."""
    if (number := scale.number) is not None:
        return ScoreMap(number.clamped, number.clamped_many)
    return ScoreMap(calibration.probability, calibration.probabilities)
