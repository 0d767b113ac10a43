"""The closed set of transforms that a model can compute from a request alone, each in two forms.

Each kind exists as a scalar function (serving, one request) and a numpy one (training, a column);
a property test holds the two equal. Missing is NaN. Event time is UTC, days begin at midnight,
weeks on Monday.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlplatform.runtime.units import DAY_MS, HOUR_MS

Column = NDArray[np.float64]
Times = NDArray[np.int64]

THURSDAY = 3  # 1970-01-01
SATURDAY = 5
LAST_NIGHT_HOUR = 6  # Source: Fraud Detection Handbook, chapter 3: a night ends with hour 6
SMALLEST_DENOMINATOR = 1e-9
MISSING = math.nan


def hour_of_day(event_ms: int) -> float:
    return float(event_ms // HOUR_MS % 24)


def day_of_week(event_ms: int) -> float:
    return float((event_ms // DAY_MS + THURSDAY) % 7)


def is_weekend(event_ms: int) -> float:
    return 1.0 if (event_ms // DAY_MS + THURSDAY) % 7 >= SATURDAY else 0.0


def is_night(event_ms: int) -> float:
    return 1.0 if event_ms // HOUR_MS % 24 <= LAST_NIGHT_HOUR else 0.0


def number(value: Any) -> float:
    """The value as a float; None and infinities become missing."""
    if value is None:
        return MISSING
    result = float(value)
    return result if math.isfinite(result) else MISSING


def ratio(numerator: float, denominator: float) -> float:
    """Numerator over denominator; missing if either is missing, or if the denominator is nearly
    0."""
    if not abs(denominator) >= SMALLEST_DENOMINATOR:
        return MISSING
    return number(numerator / denominator)


TIME_SCALAR: dict[str, Callable[[int], float]] = {
    "hour_of_day": hour_of_day,
    "day_of_week": day_of_week,
    "is_weekend": is_weekend,
    "is_night": is_night,
}


def hours_of_day(event_ms: Times) -> Column:
    return (event_ms // HOUR_MS % 24).astype(np.float64)


def days_of_week(event_ms: Times) -> Column:
    return ((event_ms // DAY_MS + THURSDAY) % 7).astype(np.float64)


def are_weekend(event_ms: Times) -> Column:
    return (days_of_week(event_ms) >= SATURDAY).astype(np.float64)


def are_night(event_ms: Times) -> Column:
    return (hours_of_day(event_ms) <= LAST_NIGHT_HOUR).astype(np.float64)


def numbers(values: Column) -> Column:
    return np.where(np.isfinite(values), values, MISSING)


def ratios(numerator: Column, denominator: Column) -> Column:
    usable = np.abs(denominator) >= SMALLEST_DENOMINATOR
    result = np.full(len(numerator), MISSING)
    with np.errstate(over="ignore", invalid="ignore"):
        np.divide(numerator, denominator, out=result, where=usable)
    return numbers(result)


TIME_VECTOR: dict[str, Callable[[Times], Column]] = {
    "hour_of_day": hours_of_day,
    "day_of_week": days_of_week,
    "is_weekend": are_weekend,
    "is_night": are_night,
}
