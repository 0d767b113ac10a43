"""Intervals of shares and means by unit, and of the ratio or difference of two of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mlplatform.learning.validation.statistics import (
    MINIMUM_UNITS,
    QUALITY_LEVEL,
    Floats,
    Integers,
    Interval,
)
from mlplatform.model.policies.segments import Flags
from mlplatform.runtime.intervals import exact_share

NOTHING: Final = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class Share:
    """A share of rows, with the numbers of equal rows and units that would make it as uncertain.

    Args:
        units: number of whole units.
        size: number of rows, each of another unit, that would give the same uncertainty.
        even_units: number of units with equally many rows that would give the same uncertainty.
    """

    hits: float
    rows: int
    units: int
    size: float
    even_units: float

    @staticmethod
    def of(flags: Flags, inside: Flags, unit: Integers) -> Share:
        """The share of flagged rows among those inside.

        Source: Cochran, Sampling Techniques, 3rd ed., section 6.8 (ratio over clusters).
        """
        rows, hits = int(inside.sum()), float(flags[inside].sum())
        if rows == 0:
            return NO_ROWS
        p, unit = hits / rows, unit[inside]
        residual, each = _unit_sums(flags[inside] - p, unit), _unit_sums(None, unit)
        units = len(each)
        by_unit = units / max(1, units - 1) * float(np.sum(residual**2)) / rows**2
        by_row = p * (1 - p) / rows
        size = rows * min(1.0, by_row / by_unit) if by_unit > 0 else float(units)
        return Share(hits, rows, units, size, rows**2 / float(np.sum(each**2)))

    @property
    def value(self) -> float:
        return self.hits / self.rows if self.rows else math.nan

    def interval(self, level: float = QUALITY_LEVEL) -> Interval:
        """The interval of a binomial share of `size` rows, wider where few units show
        their variance.

        Source: Korn and Graubard, Survey Methodology 24 (1998).
        """
        if self.rows == 0:
            return NOTHING
        if self.even_units <= 1:
            return Interval(self.value, 0.0, 1.0)
        tail = (1 - level) / 2
        size = self.size * (_normal(1 - tail) / _student(1 - tail, self.even_units - 1)) ** 2
        ends = exact_share(self.value * size, (1 - self.value) * size, 1 - level)
        return Interval(self.value, *ends)


NO_ROWS: Final = Share(0.0, 0, 0, 0.0, 0.0)


def share_ratio(share: Share, other: Share, level: float) -> Interval:
    """A share over another one; no ends where a group is too small to have any."""
    value = share.value / other.value if other.rows and other.hits else math.nan
    if min(share.units, other.units) < MINIMUM_UNITS:
        return Interval(value, math.nan, math.nan)
    return ratio(share.interval(level), other.interval(level))


def ratio(one: Interval, two: Interval) -> Interval:
    """A value of 0 or more over another one, from the ends of both; an infinite high end where the
    other one may be zero.

    Source: Newcombe, MOVER-R confidence intervals for ratios (Stat. Methods Med. Res. 25, 2016).
    """
    value = one.value / two.value if two.value > 0 else math.nan
    product = one.value * two.value
    least, most = (end * (2 * one.value - end) for end in (one.low, one.high))
    other_least, other_most = (end * (2 * two.value - end) for end in (two.low, two.high))
    divisor = product + math.sqrt(max(0.0, product**2 - least * other_most))
    low = least / divisor if divisor > 0 else 0.0
    root = math.sqrt(max(0.0, product**2 - most * other_least))
    high = (product + root) / other_least if other_least > 0 else math.inf
    return Interval(value, low, high)


def difference(one: Interval, two: Interval) -> Interval:
    """A value less another one, from the ends of both.

    Source: Zou and Donner, MOVER (Statistics in Medicine 27, 2008); of shares, Newcombe's.
    """
    value = one.value - two.value
    below = math.hypot(one.value - one.low, two.high - two.value)
    above = math.hypot(one.high - one.value, two.value - two.low)
    return Interval(value, value - below, value + above)


def mean_interval(values: Floats, unit: Integers) -> Interval:
    if not len(values):
        return NOTHING
    mean = float(values.mean())
    residual, each = _unit_sums(values - mean, unit), _unit_sums(None, unit)
    units = len(residual)
    if units < 2:
        return Interval(mean, math.nan, math.nan)
    error = math.sqrt(units / (units - 1) * float(np.sum(residual**2))) / len(values)
    even = len(values) ** 2 / float(np.sum(each**2))
    half = _student((1 + QUALITY_LEVEL) / 2, even - 1) * error
    return Interval(mean, mean - half, mean + half)


def _unit_sums(values: Any, unit: Integers) -> Floats:
    """The sum of each unit's values; None: the number of its rows."""
    position = np.unique(unit, return_inverse=True)[1]
    return np.bincount(position, values).astype(np.float64)


def _normal(share: float) -> float:
    from scipy.special import ndtri  # slow to import; most processes judge nothing

    return float(ndtri(share))


def _student(share: float, freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))
