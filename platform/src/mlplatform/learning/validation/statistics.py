"""Figures with intervals: average precision by customer, and the expected share of alerts.

Requests of one customer are alike, so whole customers are drawn or summed, never single requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]

RESAMPLES = 500
QUALITY_LEVEL = 0.90
BAND_LEVEL = 0.95
CALIBRATION_LEVEL = 0.90
CALIBRATION_BINS = 20


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Band:
    """The interval of a coming day's share, and the number of rows, customers and days behind
    it."""

    share: float
    low: float
    high: float
    rows: int
    units: int
    days: int


class Ranking:
    """Scores sorted once, so that ranking measures are cheap under many weightings.

    Ranks change at the scores that a positive has: only there are rows counted.
    """

    def __init__(self, scores: Floats, y: Integers) -> None:
        self._order = np.argsort(-scores, kind="stable")
        ranked = scores[self._order]
        ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)) + 1
        self._positives = np.flatnonzero(y[self._order] == 1)
        ties = np.searchsorted(ends, self._positives, side="right")
        self._firsts = np.flatnonzero(np.diff(ties, prepend=-1))
        self._after = ends[ties[self._firsts]]
        self._before = np.append(0, ends[:-1])[ties[self._firsts]]

    def average_precision(self, weights: Floats | None = None) -> float:
        """Mean precision over the recalled positives, ties taken together; NaN without any."""
        return self.measures(weights)[0]

    def measures(self, weights: Floats | None = None) -> tuple[float, float, float]:
        """Average precision, area under the ROC curve, and Kolmogorov-Smirnov distance.

        NaN without a positive; the latter two also where there is nothing else.
        """
        w = np.ones(len(self._order)) if weights is None else weights[self._order]
        nothing = float("nan")
        gained = np.add.reduceat(w[self._positives], self._firsts) if len(self._firsts) else w[:0]
        hits, seen = np.cumsum(gained), np.append(0.0, np.cumsum(w))
        if len(hits) == 0 or hits[-1] == 0:
            return nothing, nothing, nothing
        precision = hits / np.maximum(seen[self._after], 1e-12)
        average = float(np.sum(gained * precision) / hits[-1])
        others = seen[-1] - hits[-1]
        if others <= 0:
            return average, nothing, nothing
        recall, step = hits / hits[-1], gained / hits[-1]
        alarms = (seen[self._after] - hits) / others
        before = (seen[self._before] - (hits - gained)) / others
        area = float(np.sum(step * (1 - (before + alarms) / 2)))
        return average, area, float(max(np.max(recall - alarms), np.max(before - recall + step)))


def average_precision(scores: Floats, y: Integers) -> float:
    """Average precision; NaN where there is no positive or a score is NaN."""
    if len(y) == 0 or bool(np.isnan(scores).any()):
        return float("nan")
    return Ranking(scores, y).average_precision()


def average_precision_interval(
    scores: Floats,
    y: Integers,
    unit: Integers,
    *,
    seed: int,
    baseline: Floats | None = None,
    parts: int = 1,
) -> Interval:
    """Average precision, or its difference to a baseline's, with a 90 % interval.

    Only its low end decides, so it errs on that side 5 times in 100. Customers are drawn with
    replacement, the same for both scores; the interval is the bootstrap's percentiles. NaN
    throughout where there is no positive or a score is NaN.

    Args:
        baseline: scores of another model for the same rows; None for average precision itself.
        parts: number of intervals that share the error of one (Bonferroni); with more of them the
            ends lie further out, and are found from up to four times as many resamples.

    Source: Field and Welsh, Bootstrapping clustered data (JRSS B, 2007).
    """
    nothing = Interval(float("nan"), float("nan"), float("nan"))
    both = [scores] if baseline is None else [scores, baseline]
    if len(y) == 0 or not y.any() or any(bool(np.isnan(s).any()) for s in both):
        return nothing
    rankings = [Ranking(s, y) for s in both]
    position = np.unique(unit, return_inverse=True)[1]
    units = int(position.max()) + 1
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(RESAMPLES * min(parts, 4)):
        times = np.bincount(rng.integers(0, units, units), minlength=units).astype(np.float64)
        draws.append(_difference(rankings, times[position]))
    tail = (1 - QUALITY_LEVEL) / (2 * parts)
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return Interval(_difference(rankings, None), float(low), float(high))


def calibration_error_interval(
    scores: Floats, y: Integers, unit: Integers, *, seed: int
) -> Interval:
    """Expected calibration error over bins of equal counts, with a 90 % interval by customer.

    Bins of equal counts, since nearly all scores are near zero. Chance alone separates predicted
    from actual shares. So the error of a few positives is too high, and the error of a resample of
    them is too high by as much again. The interval is the bootstrap's basic one, which removes
    this. Only its low end decides. NaN throughout without rows or where a score is NaN.

    Sources: Naeini, Cooper, Hauskrecht, Obtaining Well Calibrated Probabilities (AAAI 2015);
    Davison and Hinkley, Bootstrap Methods and their Application, section 5.2 (basic interval).
    """
    if len(y) == 0 or bool(np.isnan(scores).any()):
        return Interval(float("nan"), float("nan"), float("nan"))
    gaps, counts = _gaps_by_unit(scores, y, unit)
    error = float(np.abs(gaps.sum(axis=0)).sum() / counts.sum())
    rng, units = np.random.default_rng(seed), len(counts)
    draws = []
    for _ in range(RESAMPLES):
        times = np.bincount(rng.integers(0, units, units), minlength=units).astype(np.float64)
        draws.append(np.abs(times @ gaps).sum() / (times @ counts))
    low, high = np.quantile(draws, [(1 - CALIBRATION_LEVEL) / 2, (1 + CALIBRATION_LEVEL) / 2])
    return Interval(error, max(0.0, float(2 * error - high)), max(0.0, float(2 * error - low)))


def error_bound(error: Interval, limit: float) -> str:
    """The interval of a calibration error beside its limit, in words. The interval may lie below
    the error, because it leaves out the part that chance adds."""
    return (
        f"without what chance adds, the distance is {100 * error.low:.2f} to "
        f"{100 * error.high:.2f} points ({100 * CALIBRATION_LEVEL:g} % interval; its lower end "
        f"must be {100 * limit:.2f} or less)"
    )


def share_band(flags: NDArray[np.bool_], unit: Integers, day: Integers) -> Band | None:
    """The share of flagged rows, and where a coming day's share should be with 95 %.

    The variance is that of the ratio over customers plus that of the days' shares, for one more
    day; Student's t with the days less one. None with fewer than two days or customers: one day
    says nothing of the next.

    Source: Cochran, Sampling Techniques, 3rd ed., section 6.8 (ratio over clusters).
    """
    units, days = len(np.unique(unit)), len(np.unique(day))
    if days < 2 or units < 2:
        return None
    from scipy.special import stdtrit  # slow to import; most processes judge nothing

    share = float(flags.mean())
    flagged, rows = _sums(flags, unit)
    residual = flagged - share * rows
    by_unit = units / (units - 1) * float(np.sum(residual**2)) / len(flags) ** 2
    flagged, rows = _sums(flags, day)
    by_day = float(np.var(flagged / rows, ddof=1)) * (1 + 1 / days)
    half = float(stdtrit(days - 1, (1 + BAND_LEVEL) / 2)) * float(np.sqrt(by_unit + by_day))
    return Band(
        share=share,
        low=max(0.0, share - half),
        high=min(1.0, share + half),
        rows=len(flags),
        units=units,
        days=days,
    )


def paired_design_effect(
    own: NDArray[np.bool_], other: NDArray[np.bool_], unit: Integers
) -> float | None:
    """The design effect of the difference between two arms' alerts on the same requests.

    It is the variance of the difference by customers over that of independent requests, 1 or more.
    None if the other arm has no alert, or only one customer paid.

    Source: Kish, Survey sampling (1965), section 8.2, for residuals of a ratio.
    """
    if not other.any():
        return None
    return _design_effect(own - own.sum() / other.sum() * other, unit)


def flip_design_effect(
    differ: NDArray[np.bool_], among: NDArray[np.bool_], unit: Integers
) -> float | None:
    """The design effect of the share of requests that two arms decide differently, among some
    requests; None if there are none of these, or only one customer paid."""
    if not among.any():
        return None
    return _design_effect(differ - differ.sum() / among.sum() * among, unit)


def _design_effect(residual: Floats, unit: Integers) -> float | None:
    customers, place = np.unique(unit, return_inverse=True)
    plain = float(np.sum(residual**2))
    if len(customers) < 2:
        return None
    if not plain:
        return 1.0
    by_unit = float(np.sum(np.bincount(place, residual) ** 2))
    return max(by_unit * len(customers) / (len(customers) - 1) / plain, 1.0)


def _difference(rankings: list[Ranking], weights: Floats | None) -> float:
    values = [r.average_precision(weights) for r in rankings]
    return values[0] - values[1] if len(values) == 2 else values[0]


def _gaps_by_unit(scores: Floats, y: Integers, unit: Integers) -> tuple[Floats, Floats]:
    """Scores less labels, summed by unit and bin [units, bins]; and each unit's rows [units]."""
    order = np.argsort(scores, kind="stable")
    bins = min(CALIBRATION_BINS, len(order))
    bin_of = np.empty(len(order), np.int64)
    for number, part in enumerate(np.array_split(order, bins)):
        bin_of[part] = number
    position = np.unique(unit, return_inverse=True)[1]
    counts = np.bincount(position).astype(np.float64)
    cells = np.zeros((len(counts), bins))
    np.add.at(cells, (position, bin_of), scores - y)
    return cells, counts


def _sums(flags: NDArray[np.bool_], group: Integers) -> tuple[Floats, Floats]:
    position = np.unique(group, return_inverse=True)[1]
    flagged = np.bincount(position, flags.astype(np.float64)).astype(np.float64)
    return flagged, np.bincount(position).astype(np.float64)
