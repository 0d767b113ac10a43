"""The rhythm of a number: how it changes over the week and from day to day, learned from whole
days."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mlplatform.model.profile import (
    Column,
    Floats,
    bin_counts,
    distance,
    finite,
    levels,
    share_psi,
)
from mlplatform.runtime.units import DAY_MS

WEEK = 7
SCORE = "score"
LEVELS = 50  # of a weekday's quantiles: it has a seventh of the rows
ENOUGH_DEGREES = 6  # of freedom: fewer days do not show how days differ


@dataclass(frozen=True, slots=True)
class Weekday:
    """A number on one weekday: shares of the column's bins, quantiles, missing share.

    Args:
        rows, days: number of rows and of days from which it was learned.
    """

    shares: tuple[float, ...]
    quantiles: tuple[float, ...]
    missing_share: float
    rows: int
    days: int


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How far days without drift are from what is expected of them.

    Args:
        weekdays: one entry for each weekday, Monday first; empty unless each weekday was seen
            twice. Then a day is compared with all days, and weekly changes are part of the spread.
        spread: root mean square distance of a day from the expected one, in standard deviations of
            the column.
        psi: mean population stability index of a day.
        degrees: degrees of freedom of both: number of days minus number of groups they are compared
            with.
    """

    weekdays: tuple[Weekday, ...]
    spread: float
    psi: float
    degrees: int


Rhythms = Mapping[str, Rhythm]


def weekday_of(start_ms: int, end_ms: int) -> int | None:
    """The weekday of a window: 0 for a Monday (UTC), 6 for a Sunday; None if it is no whole day."""
    if start_ms % DAY_MS or end_ms - start_ms != DAY_MS:
        return None
    return weekday(start_ms // DAY_MS)


def weekday(day: int) -> int:
    """The weekday of an epoch day; Monday is 0."""
    return (day + 3) % WEEK  # 1970-01-01 was a Thursday


def rhythm(
    column: Column, values: Floats, days: npt.NDArray[np.int64], *, by_weekday: bool = True
) -> Rhythm | None:
    """The rhythm of a column; None if there are too few days to learn one.

    Args:
        column: the column whose bins and standard deviation are used.
        values: the column's values on whole days; a missing value is NaN.
        days: the epoch day of each value.
        by_weekday: whether to compare a day with its weekday, if each weekday was seen at least
            twice.
    """
    seen = [int(d) for d in np.unique(days) if len(finite(values[days == d]))]
    of_week = np.array([weekday(d) for d in seen], dtype=np.int64)
    weekly = by_weekday and bool((np.bincount(of_week, minlength=WEEK) >= 2).all())
    groups = of_week if weekly else np.zeros(len(seen), dtype=np.int64)
    degrees = len(seen) - len(np.unique(groups))
    if degrees < ENOUGH_DEGREES:
        return None
    pools = []
    for group in np.unique(groups):
        own = np.array(seen)[groups == group]
        pools.append(_weekday(column, values[np.isin(days, own)], len(own)))
    far = [_far(pools[g], column, values[days == d]) for d, g in zip(seen, groups, strict=True)]
    return Rhythm(
        weekdays=tuple(pools) if weekly else (),
        spread=_short(np.sqrt(sum(d**2 for d, _ in far) / degrees)),
        psi=_short(sum(p for _, p in far) / degrees),
        degrees=degrees,
    )


def expected_column(column: Column, of: Weekday) -> Column:
    """The column as it is expected on that weekday."""
    return replace(column, shares=of.shares, quantiles=of.quantiles, missing_share=of.missing_share)


def _weekday(column: Column, values: Floats, days: int) -> Weekday:
    present = finite(values)
    shares = bin_counts(present, np.array(column.edges)) / len(present)
    return Weekday(
        shares=tuple(_short(s) for s in shares),
        quantiles=()
        if column.is_category
        else tuple(_short(q) for q in np.quantile(present, levels(LEVELS))),
        missing_share=_short(1.0 - len(present) / len(values)),
        rows=len(values),
        days=days,
    )


def _far(pool: Weekday, column: Column, values: Floats) -> tuple[float, float]:
    present, of_day = finite(values), expected_column(column, pool)
    shares = bin_counts(present, np.array(column.edges)) / len(present)
    return distance(of_day, present), share_psi(np.array(pool.shares), shares)


def _short(value: float) -> float:
    return float(f"{value:.6g}")
