"""Performance of a version since it became champion, by matured labels, with bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlplatform.rollouts.drift.performance import (
    CALIBRATION,
    ERROR,
    LEAST_REFERENCE_DAYS,
    MOST_REFERENCE_DAYS,
    DailyHits,
    MaturedDays,
)
from mlplatform.rollouts.verdicts.statistics import (
    Clusters,
    ClusterSums,
    Counts,
    sequence_width,
    share_difference,
)
from mlplatform.runtime.units import DAY_MS

ERROR_SHARE = 0.05
"""Chance that an interval is ever wrong, at any check; half of it on either side."""


@dataclass(frozen=True, slots=True)
class MaturedMetric:
    """One metric over a stretch of days.

    Args:
        hits: sum of the hits, as `DailyHits` defines them; for an error, its integer part.
        base: number by which the hits are divided: the number of trials; for calibration, the sum
            of the scores.
        value: share of hits (0-1); for calibration, positives over expected positives; for an
            error, its mean. `value`, `low` and `high` are None if nothing was counted.
    """

    name: str
    hits: int
    base: float
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class MaturedStretch:
    """A stretch of a champion's matured days, in event time.

    Args:
        days: number of days that count. Other days between them have no label, or a fault in their
            data.
        hidden: number of requests that were stopped and have no label; nobody can know their
            outcome.
    """

    from_ms: int
    to_ms: int
    days: int
    requests: int
    hidden: int
    metrics: tuple[MaturedMetric, ...]


@dataclass(frozen=True, slots=True)
class MaturedTenure:
    """The matured days of a champion: the first ones, and the last ones where there are more.

    Args:
        since_ms: event time of the champion's promotion.
        seen_ms: event time of the check.
        gaps: reasons why days are missing, or may lack some of their labels.
    """

    version: int
    since_ms: int
    seen_ms: int
    stretches: tuple[MaturedStretch, ...]
    gaps: tuple[str, ...]


def matured_tenure(
    matured: MaturedDays, *, version: int, since_ms: int, now_ms: int
) -> MaturedTenure:
    """First and last stretch of the matured days that a drift check has read."""
    first, last = matured.days[:MOST_REFERENCE_DAYS], matured.days[MOST_REFERENCE_DAYS:]
    stretches = tuple(
        MaturedStretch(
            from_ms=days[0].start_ms,
            to_ms=days[-1].start_ms + DAY_MS,
            days=len(days),
            requests=sum(day.requests for day in days),
            hidden=sum(day.hidden for day in days),
            metrics=tuple(
                matured_metric(name, [day.metrics[name] for day in days])
                for name in days[0].metrics
            ),
        )
        for days in (first, last)
        if days
    )
    return MaturedTenure(version, since_ms, now_ms, stretches, matured.gaps)


def matured_metric(name: str, days: Sequence[DailyHits]) -> MaturedMetric:
    """The metric of some days, with an interval that holds at every check.

    Hits of one customer count as one event as far as they come together. Hits of one day count as
    one event in the same way, from seven days on: fewer days do not show how much days differ.

    Source: as `rollouts.verdicts.statistics`.
    """
    total, base = sum(float(day.hits.sum()) for day in days), sum(day.base for day in days)
    hits = int(total)
    if not base:
        return MaturedMetric(name, hits, base, None, None, None)
    if name == CALIBRATION:
        low, high = _ratio_bounds(days, hits, base)
    elif name == ERROR:
        low, high = _mean_bounds(days, total / base)
    else:
        low, high = _share_bounds(days)
    return MaturedMetric(name, hits, base, total / base, low, high)


def _mean_bounds(days: Sequence[DailyHits], mean: float) -> tuple[float, float]:
    """Bounds on a mean of errors. One event is as large as the most that a customer, or a day, adds
    to the sum of errors."""
    width = 0.0
    for sums, counts in _views(days):
        off = sums - mean * counts
        size, variance = float(np.abs(off).max()), float((off**2).sum())
        if size:
            wide = size * sequence_width(variance / size**2, error_share=ERROR_SHARE / 2)
            width = max(width, wide / float(counts.sum()))
    return max(mean - width, 0.0), mean + width


def _share_bounds(days: Sequence[DailyHits]) -> tuple[float, float]:
    views = [_one_arm(hits.astype(np.int64), trials) for hits, trials in _views(days)]
    half = ERROR_SHARE / 2
    found = share_difference(views, stop_error=half, pass_error=half, ratio=0.0)
    return max(found.pass_low, 0.0), min(found.pass_high, 1.0)


def _ratio_bounds(days: Sequence[DailyHits], hits: int, base: float) -> tuple[float, float]:
    """Bounds on positives over expected positives; the positives alone are the trials."""
    size = 1.0
    if hits:
        (of_customers, _), *_ = _views(days)
        size = max(size, float((of_customers**2).sum()) / hits)
        if len(days) >= LEAST_REFERENCE_DAYS:
            off = [float(day.hits.sum()) - hits * day.base / base for day in days]
            size = max(size, sum(x * x for x in off) / hits)
    width = size * sequence_width(hits / size, error_share=ERROR_SHARE / 2)
    return max(hits - width, 0.0) / base, (hits + width) / base


def _views(days: Sequence[DailyHits]) -> list[tuple[npt.NDArray[Any], Counts]]:
    """Hits (or errors) and trials, once by customer and once by day."""
    hits = np.concatenate([day.hits for day in days]).astype(np.float64)
    _, unit = np.unique(np.concatenate([day.units for day in days]), return_inverse=True)
    clusters = [unit]
    if len(days) >= LEAST_REFERENCE_DAYS:
        clusters.append(np.repeat(np.arange(len(days)), [len(day.hits) for day in days]))
    return [(np.bincount(c, weights=hits), np.bincount(c).astype(np.int64)) for c in clusters]


def _one_arm(hits: Counts, trials: Counts) -> ClusterSums:
    nothing = np.zeros_like(trials)
    return Clusters(hits, trials, nothing, nothing).sums()
