"""Whether the champion still finds as much as at first, by matured labels, at every check."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mlplatform.model.policies.monitoring import DriftPolicy
from mlplatform.rollouts.drift.health import Health
from mlplatform.rollouts.verdicts.statistics import sequence_width
from mlplatform.runtime.figures import percent
from mlplatform.runtime.times import day_text

LEAST_REFERENCE_DAYS, MOST_REFERENCE_DAYS = 7, 21
RECENT_DAYS = 14
RUN_DAYS = 30
"""`drift.performance_false_alarm_share` is the chance of a false incident in this many days."""
CALIBRATION = "calibration"
ACCURACY = "accuracy"
"""Metric of a model of classes: the share of labelled requests whose class was decided rightly."""
_COUNTED: Final = {"recall": "positives", "precision": "alerts", ACCURACY: "labelled requests"}
"""Metric → what its share is of."""
ERROR = "error"
"""Metric of a model of numbers: the mean absolute error of labelled requests, in the model's
unit."""
Hits = npt.NDArray[np.bool_] | npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class DailyHits:
    """Hits of one day, one element per trial.

    Args:
        units: assignment unit of each trial.
        hits: hit or not, for each trial. Recall: the trials are positives, and hits have one of the
            highest scores. Precision: the trials are the requests with the highest scores, and hits
            are positive. Error: size of each error.
        base: number by which the sum of the hits is divided: the number of trials. Calibration has
            only positives as trials, and its base is the sum of the scores.
    """

    units: npt.NDArray[np.int64]
    hits: Hits
    base: float


@dataclass(frozen=True, slots=True, eq=False)
class MaturedDay:
    """Outcomes of one day's requests that the champion scored.

    Args:
        metrics: name of a metric → its hits; every day has the same names: `recall`, `precision`,
            `calibration`, `recall of a segment`, …; `accuracy` for classes, `error` for numbers.
        hidden: number of requests that were stopped and have no label; nobody can know their
            outcome.
    """

    start_ms: int
    requests: int
    hidden: int
    metrics: Mapping[str, DailyHits]


@dataclass(frozen=True, slots=True, eq=False)
class MaturedDays:
    """The first and the last matured days under a champion, oldest first.

    Args:
        gaps: reasons why days are missing, or may lack some of their labels.
    """

    days: tuple[MaturedDay, ...]
    gaps: tuple[str, ...] = ()


NO_DAYS = MaturedDays((), ("no request has matured under this champion",))


@dataclass(frozen=True, slots=True)
class Change:
    """A metric of the recent days beside the same metric of the days before, with bounds.

    Args:
        since_ms: event time at which the recent days begin.
        now, before: share of hits (0-1); for calibration, positives over expected positives; for an
            error, its mean.
        low, high: bounds within which `now` may lie if `before` still held. A value outside is
            harm. A side on which a change is no harm has an infinite bound: the upper one of a
            share, the lower one of an error.
    """

    metric: str
    since_ms: int
    now: float
    before: float
    low: float
    high: float
    hits: int
    base: float

    @property
    def proven(self) -> bool:
        return self.now < self.low or self.now > self.high

    @property
    def excess(self) -> float:
        """Distance of the metric from its interval, as a share of the interval's width; at most 0
        inside the interval."""
        ends = [end for end in (self.low, self.high) if math.isfinite(end)]
        half = sum(abs(end - self.before) for end in ends) / max(len(ends), 1)
        return max(self.low - self.now, self.now - self.high, -half) / max(half, 1e-12)


@dataclass(frozen=True, slots=True)
class PerformanceVerdict:
    """A verdict on performance. UNHEALTHY: a drop is proven. HEALTHY: labels have come and prove no
    drop.

    Args:
        since_ms: event time at which the first of the worse days begins; None unless UNHEALTHY.
        changes: for each metric, the change over those recent days that give the strongest
            evidence.
    """

    health: Health
    reasons: tuple[str, ...]
    since_ms: int | None = None
    changes: tuple[Change, ...] = ()


NOT_JUDGED = PerformanceVerdict(Health.INCONCLUSIVE, NO_DAYS.gaps)


def performance_verdict(matured: MaturedDays, policy: DriftPolicy) -> PerformanceVerdict:
    """Whether recent matured days are worse than the champion's first ones.

    The standard is what the version showed when it took over: its first matured days, seven at
    least and 21 at most. A holdout would be another population (no decision of the version had
    hidden or changed anything there), and is smaller. Each of the last 14 days may be the first of
    worse days. So each begins a sequence of its own with its part of the error, and earlier good
    days do not dilute a late change. The variance of recent trials follows their own share if that
    is less than the standard's: if hardly anything is found in a segment any more, few days are
    proof. What `sequence_width` adds for unseen events prevents a proof that is too early.

    Source: Shekhar and Ramdas (2023), Sequential changepoint detection via backward confidence
    sequences; the sequence itself is that of `rollouts.verdicts.statistics`.
    """
    days = matured.days
    if len(days) <= LEAST_REFERENCE_DAYS:
        few = f"this champion has {len(days)} matured days; {LEAST_REFERENCE_DAYS + 1} are needed"
        return PerformanceVerdict(Health.INCONCLUSIVE, (few, *matured.gaps))
    names = tuple(days[0].metrics)
    error_share = policy.performance_false_alarm_share / RUN_DAYS / len(names)
    by_name = {name: _most_telling(days, name, policy, error_share) for name in names}
    changes = tuple(change for change in by_name.values() if change is not None)
    hidden = sum(day.hidden for day in days)
    unknown = (f"the outcomes of {hidden:,} stopped requests are not known",) if hidden else ()
    worse = [change for change in changes if change.proven]
    if worse:
        first_ms = min(change.since_ms for change in worse)
        reasons = (*(_words(c) for c in worse), *unknown)
        return PerformanceVerdict(Health.UNHEALTHY, reasons, first_ms, changes)
    empty = tuple(f"{name} has nothing to count" for name in names if by_name[name] is None)
    if matured.gaps or len(empty) == len(names):
        return PerformanceVerdict(Health.INCONCLUSIVE, (*matured.gaps, *empty), None, changes)
    return PerformanceVerdict(
        Health.HEALTHY, (*(_words(c) for c in changes), *empty, *unknown), None, changes
    )


def plain(verdict: PerformanceVerdict) -> dict[str, Any]:
    """The verdict as evidence: plain JSON, no NaN."""
    return {
        "health": str(verdict.health),
        "reasons": list(verdict.reasons),
        "metrics": {
            c.metric: {
                "since_ms": c.since_ms,
                "now": c.now,
                "before": c.before,
                "low": c.low if math.isfinite(c.low) else None,
                "high": c.high if math.isfinite(c.high) else None,
                "hits": c.hits,
                "base": c.base,
                "worse": c.proven,
            }
            for c in verdict.changes
        },
    }


def _most_telling(
    days: Sequence[MaturedDay], name: str, policy: DriftPolicy, error_share: float
) -> Change | None:
    starts = range(max(LEAST_REFERENCE_DAYS, len(days) - RECENT_DAYS), len(days))
    counted = [day.metrics[name] for day in days]
    found = [
        _change(name, days[s].start_ms, counted[: min(s, MOST_REFERENCE_DAYS)], counted[s:],
                policy, error_share)
        for s in starts
    ]  # fmt: skip
    known = [change for change in found if change is not None]
    return max(known, key=lambda change: change.excess, default=None)


def _change(
    name: str,
    since_ms: int,
    reference: Sequence[DailyHits],
    recent: Sequence[DailyHits],
    policy: DriftPolicy,
    error_share: float,
) -> Change | None:
    hits, base = (np.array(found) for found in _totals(reference))
    now_hits, now_base = (np.array(found).sum() for found in _totals(recent))
    if not base.sum() or not now_base or not hits.sum():
        return None
    before = float(hits.sum() / base.sum())
    kind = _KINDS.get(name, _SHARE)
    share, spread, event = kind.trials(before, reference)
    unit_variance = spread or 1 / base.sum()
    effect = max(
        1.0,
        _effect_of_days(hits, base, before, unit_variance),
        _effect_of_units(reference, share, base.sum() * unit_variance),
    )
    now = float(now_hits / now_base)
    recent_variance = min(unit_variance, now * (1 - now)) if kind is _SHARE else unit_variance
    variance = effect * now_base * (recent_variance + unit_variance * now_base / base.sum())
    error_share = error_share / kind.sides
    event *= effect
    width = event * sequence_width(variance / event**2, error_share=error_share) / now_base
    allowed = before * (policy.calibration_drift if kind.sides == 2 else policy.performance_drop)
    return Change(
        metric=name,
        since_ms=since_ms,
        now=now,
        before=before,
        low=float(before - allowed - width) if kind.falls else -math.inf,
        high=float(before + allowed + width) if kind.rises else math.inf,
        hits=int(now_hits),
        base=float(now_base),
    )


@dataclass(frozen=True, slots=True)
class _Kind:
    """The harmful sides of a metric, and how its trials vary.

    Args:
        trials: computes from the earlier metric and its days (mean of a trial, variance of a trial,
            size of one event).
    """

    falls: bool
    rises: bool
    trials: Callable[[float, Sequence[DailyHits]], tuple[float, float, float]]

    @property
    def sides(self) -> int:
        """The number of sides on which a change is harmful."""
        return self.falls + self.rises


def _of_share(before: float, _: Sequence[DailyHits]) -> tuple[float, float, float]:
    return before, before * (1 - before), 1.0


def _of_positives(before: float, _: Sequence[DailyHits]) -> tuple[float, float, float]:
    """Mean (0), variance (the metric) and event size (1) of calibration's trials: the expected
    positives of one customer are next to nothing."""
    return 0.0, before, 1.0


def _of_errors(before: float, days: Sequence[DailyHits]) -> tuple[float, float, float]:
    """Mean, variance and event size of errors: one event is as large as the largest error seen,
    because a few errors may make most of the sum."""
    errors = np.concatenate([day.hits for day in days])
    return before, float(errors.var()), float(errors.max())


_SHARE: Final = _Kind(True, False, _of_share)
_KINDS: Final[Mapping[str, _Kind]] = {
    CALIBRATION: _Kind(True, True, _of_positives),
    ERROR: _Kind(False, True, _of_errors),
}
"""Kinds of metrics by name; all other metrics are shares."""


def _totals(days: Sequence[DailyHits]) -> tuple[list[float], list[float]]:
    return [float(day.hits.sum()) for day in days], [day.base for day in days]


def _effect_of_days(
    hits: npt.NDArray[Any], base: npt.NDArray[Any], share: float, unit_variance: float
) -> float:
    """Variance between the days of the reference over that of independent trials."""
    residuals = float(((hits - share * base) ** 2).sum())
    return residuals * len(hits) / (len(hits) - 1) / float(base.sum() * unit_variance)


def _effect_of_units(days: Sequence[DailyHits], share: float, variance: float) -> float:
    """Variance between the customers of the reference over that of independent trials: several
    positives of one customer are found, or missed, together.

    Args:
        share: mean of a trial.
    """
    _, cluster = np.unique(np.concatenate([day.units for day in days]), return_inverse=True)
    hits = np.concatenate([day.hits for day in days])
    residuals = np.bincount(cluster, weights=hits) - share * np.bincount(cluster)
    return float((residuals**2).sum()) / variance


def _words(change: Change) -> str:
    since = day_text(change.since_ms)
    if change.metric == CALIBRATION:
        words = (
            f"since {since} there were {change.now:.2f} times as many positives as the scores "
            f"predicted; in the champion's first days there were {change.before:.2f} times as many"
        )
        expected = f"{max(change.low, 0):.2f} to {change.high:.2f} times"
    elif change.metric == ERROR:
        words = (
            f"since {since} the mean absolute error of {change.base:,.0f} labelled requests is "
            f"{change.now:.4g}; in the champion's first days it was {change.before:.4g}"
        )
        expected = f"{change.high:.4g} or less"
    else:
        words = (
            f"since {since} {change.metric} is {percent(change.now)} of {change.base:,.0f} "
            f"{_counted(change)}; in the champion's first days it was {percent(change.before)}"
        )
        expected = f"{percent(max(change.low, 0))} or more"
    proven = "is proven" if change.proven else "is not proven"
    return f"{words}; {expected} was expected, and a change for the worse {proven}"


def _counted(change: Change) -> str:
    return _COUNTED.get(change.metric.partition(" ")[0], "requests")
