"""Figures with intervals: average precision by customer, and the expected share of alerts.

Requests of one customer are alike, so whole customers are drawn or summed, never single requests.
"""

from __future__ import annotations

from collections.abc import Iterator
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
MINIMUM_UNITS = 30
"""Fewest customers that show anything: fewer differ by chance."""


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


def effective_units(sizes: Floats) -> float:
    """The number of units of one size that a mean over units of these sizes is as certain as.

    Source: Kish, Survey sampling (1965), section 11.2.
    """
    squares = float(np.square(sizes).sum())
    return float(sizes.sum()) ** 2 / squares if squares > 0 else 1.0


@dataclass(frozen=True, slots=True)
class Stakes:
    """One unit more than a measure was computed from, who is against an end of its interval.

    Without that one, losses that no unit happens to show would be ruled out by any number of units,
    and the end of a few rare ones would lie too near. It stands for the 1 in the exact upper limit
    of a Poisson count, a chi-square quantile of 2 (count + 1) degrees.

    Args:
        sizes: what each unit counts in the measure [units], such as its rows or positives.
        effective: the number of units of one size that are as certain as these.
        against: the part of the measure's dividend that the one more has, and its size: for the low
            end and for the high one.
        least, most: the range of the measure.

    Source: Garwood, Biometrika 28 (1936) for the limit.
    """

    sizes: Floats
    effective: float
    against: tuple[tuple[float, float], tuple[float, float]]
    least: float = -np.inf
    most: float = np.inf

    @classmethod
    def bounded(cls, sizes: Floats, least: float, most: float) -> Stakes:
        """The stakes in a measure that has a range: the one more loses, or gains, all of it."""
        effective = effective_units(sizes)
        size = float(sizes.sum()) / effective
        return cls(sizes, effective, ((least * size, size), (most * size, size)), least, most)

    @classmethod
    def of_sums(
        cls, parts: Floats, sizes: Floats, stake: Floats, *, least: float = -np.inf
    ) -> Stakes:
        """The stakes in a mean that has no range: the one more is the unit that is furthest from
        it, once again; or gains or loses all that a unit has at stake, if that is more.

        Args:
            parts: each unit's part of the dividend [units]; their sum over that of the sizes is the
                mean.
            stake: what each unit could lose [units], 0 or more, such as its errors.
        """
        effective = effective_units(stake)
        size, mean = float(sizes.mean()), float(parts.sum() / sizes.sum())
        lost, ends, residual = float(stake.sum()) / effective, [], parts - mean * sizes
        for sign in (-1, 1):
            unit = int((sign * residual).argmax())
            far = (float(parts[unit]), float(sizes[unit]))
            seen = sign * residual[unit] >= lost
            ends.append(far if seen else (mean * size + sign * lost, size))
        return cls(sizes, effective, (ends[0], ends[1]), least)

    def interval(
        self, value: float, drawn: Floats, sizes: Floats, more: Floats, *, parts: int = 1
    ) -> Interval:
        """The interval of a measure, as wide as Student's t for so few units; NaN if no resample
        has a value.

        Args:
            drawn: the measure in each resample, without the one more.
            sizes: the sum of the sizes of each resample's units.
            more: how often the one more is in each.
            parts: number of intervals that share the error of one (`shared_error`).

        Source: Carter, Schnepel and Steigerwald, Asymptotic behavior of a t-test robust to cluster
        heterogeneity (Review of Economics and Statistics 99, 2017).
        """
        from scipy.special import stdtrit  # slow to import; most processes judge nothing

        held, ends = np.isfinite(drawn), shared_error(parts)[1]
        if not held.any() or not np.isfinite(value):
            return Interval(value, np.nan, np.nan)
        drawn, sizes, more, found = drawn[held], sizes[held], more[held], []
        for (part, size), end in zip(self.against, ends, strict=True):
            moved = (sizes * drawn + more * part) / (sizes + more * size)
            found.append(float(np.quantile(moved, end)))
        few = float(stdtrit(max(self.effective - 1, 1), ends[1]) / stdtrit(np.inf, ends[1]))
        low, high = (value + few * (end - value) for end in found)
        return Interval(value, min(max(low, self.least), value), max(min(high, self.most), value))


def drawn_units(units: int, *, seed: int, parts: int = 1) -> Iterator[tuple[Floats, float]]:
    """How often each unit is in a resample, and how often the one more (`Stakes`), for each
    resample of all of them. Resamples of the one more alone are left out.

    Args:
        parts: number of intervals that share the error of one (`shared_error`).

    Source: Field and Welsh, Bootstrapping clustered data (JRSS B, 2007).
    """
    rng = np.random.default_rng(seed)
    for _ in range(shared_error(parts)[0]):
        drawn = rng.integers(0, units + 1, units + 1)
        times = np.bincount(drawn, minlength=units + 1).astype(np.float64)
        if times[:-1].any():  # one unit, or two, may not be drawn at all
            yield times[:-1], float(times[-1])


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
    replacement, the same for both scores, and one more (`Stakes`) who is against the end: all of
    that one's positives are found by one of both, and none by the other. NaN throughout where there
    is no positive or a score is NaN.

    Args:
        baseline: scores of another model for the same rows; None for average precision itself.
        parts: number of intervals that share the error of one (Bonferroni); with more of them the
            ends lie further out, and are found from up to four times as many resamples.
    """
    nothing = Interval(float("nan"), float("nan"), float("nan"))
    both = [scores] if baseline is None else [scores, baseline]
    if len(y) == 0 or not y.any() or any(bool(np.isnan(s).any()) for s in both):
        return nothing
    rankings = [Ranking(s, y) for s in both]
    position = np.unique(unit, return_inverse=True)[1]
    positives = np.bincount(position, y == 1).astype(np.float64)
    stakes = Stakes.bounded(positives, 0.0 if baseline is None else -1.0, 1.0)
    draws = [
        (_difference(rankings, times[position]), times @ positives, more)
        for times, more in drawn_units(len(positives), seed=seed, parts=parts)
    ]
    drawn, sizes, more = np.array(draws).T
    return stakes.interval(_difference(rankings, None), drawn, sizes, more, parts=parts)


def shared_error(parts: int) -> tuple[int, tuple[float, float]]:
    """The number of resamples, and the shares of them below both ends, of one of several intervals
    that share the error of one (Bonferroni): the ends of more parts lie further out."""
    tail = (1 - QUALITY_LEVEL) / (2 * parts)
    return RESAMPLES * min(parts, 4), (tail, 1 - tail)


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
