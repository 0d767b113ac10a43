"""Recall and precision where the platform's own decisions hide outcomes, with unknown outcomes left
open.

A stopped request gets no positive label. A declared share of them is let through at random
(`exploration` in model.yaml), and stands for the others by the inverse of its chance. Requests that
had no chance to be seen give bounds: once with none of them positive, once with all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mlplatform.rollouts.verdicts.facts import Flags, Integers
from mlplatform.rollouts.verdicts.statistics import event_size, sequence_width

Floats = npt.NDArray[np.float64]
MOST_ROUNDS = 50
"""Most rounds of the search for an extreme, which usually ends after a few."""


@dataclass(frozen=True, slots=True, eq=False)
class PartialOutcomes:
    """Requests of which some outcomes are hidden; one array element per request.

    Args:
        unit: customer of each request; one customer's requests form a cluster.
        positive: whether the request is positive; False if its outcome was not seen.
        seen: whether the outcome is known.
        chance: probability with which the outcome was seen: 1 if nothing hid it, 0 if nothing could
            show it, the propensity of the draw in between.
        guess: probability (0-1) of a positive by some model. Estimates stay unbiased even if it is
            wrong; a good guess makes them narrower.
        came: share (0, 1] of the labels that has come, for requests of this age.
    """

    unit: Integers
    positive: Flags
    seen: Flags
    chance: Floats
    guess: Floats
    came: Floats

    def of(self, kept: Flags) -> PartialOutcomes:
        """The outcomes of the selected requests."""
        return PartialOutcomes(
            self.unit[kept], self.positive[kept], self.seen[kept], self.chance[kept],
            self.guess[kept], self.came[kept],
        )  # fmt: skip

    @property
    def is_drawn(self) -> Flags:
        """Whether a draw showed or hid each request's outcome."""
        flags: Flags = (self.chance > 0) & (self.chance < 1)
        return flags


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """A ratio of sums over requests: `hits` of the positives, over `positives` and `others`.

    Args:
        hits, positives: what a positive adds to the numerator, and to the denominator.
        others: what every request adds to the denominator.
    """

    hits: Floats
    positives: Floats
    others: Floats

    def of(self, kept: Flags) -> Metric:
        """Sums over some of the requests."""
        return Metric(self.hits[kept], self.positives[kept], self.others[kept])


def recall(flagged: Flags) -> Metric:
    """Share of the positives that were flagged."""
    hits = flagged.astype(np.float64)
    return Metric(hits, np.ones_like(hits), np.zeros_like(hits))


def precision(flagged: Flags) -> Metric:
    """Share of the flagged requests that were positive."""
    hits = flagged.astype(np.float64)
    return Metric(hits, np.zeros_like(hits), hits)


def recall_difference(mine: Flags, other: Flags) -> Metric:
    """Share of the positives that `mine` flagged, less the share that `other` flagged."""
    hits = mine.astype(np.float64) - other.astype(np.float64)
    return Metric(hits, np.ones_like(hits), np.zeros_like(hits))


Estimate = Callable[[PartialOutcomes], Floats]


def as_seen(requests: PartialOutcomes) -> Floats:
    """Weights of the positives that were seen, each raised for those of its age whose labels are
    yet to come. Estimates are biased where any outcome was hidden."""
    found: Floats = requests.positive / requests.came
    return found


def inverse_propensity(requests: PartialOutcomes) -> Floats:
    """The weight of each request's outcome by inverse propensity: drawn requests stand for the
    others.

    Source: Horvitz and Thompson (1952), A generalization of sampling without replacement.
    """
    found = as_seen(requests)
    drawn = requests.is_drawn
    shown = drawn & requests.seen
    found[drawn] = 0.0
    found[shown] = as_seen(requests)[shown] / requests.chance[shown]
    return found


def doubly_robust(requests: PartialOutcomes) -> Floats:
    """The guess for each request whose outcome a draw could hide, corrected by the drawn requests.

    Source: Robins, Rotnitzky and Zhao (1994), Estimation of regression coefficients when some
    regressors are not always observed; Dudík, Langford and Li (2011), Doubly robust policy
    evaluation and learning.
    """
    found = inverse_propensity(requests)
    drawn = requests.is_drawn
    weight = requests.seen[drawn] / requests.chance[drawn]
    found[drawn] += requests.guess[drawn] * (1 - weight)
    return found


@dataclass(frozen=True, slots=True)
class MetricBounds:
    """A metric and its bounds, each wrong with the error share that was asked for, ever.

    Args:
        value: estimate from seen outcomes and the requests that draws stand for; NaN if there are
            none.
        lowest, highest: metric if the outcomes that nothing could show were the worst, or the best,
            ones.
    """

    value: float
    low: float
    high: float
    lowest: float
    highest: float


def interval(
    metric: Metric,
    requests: PartialOutcomes,
    error_share: float,
    estimate: Estimate = doubly_robust,
) -> MetricBounds:
    """The value of the metric with its bounds.

    Two pairs of bounds hold. One takes every unseen outcome as anything. The other lets draws stand
    for the requests that they were drawn from, and takes only the rest as anything. Where there
    were draws, each pair gets half of the error, and only values within both pairs are left open.

    Source: Manski (1990), Nonparametric bounds on treatment effects; Horowitz and Manski (2000).
    """
    tells = requests.positive | ~requests.seen | requests.is_drawn | (metric.others != 0)
    metric, requests = metric.of(tells), requests.of(tells)
    unseen = ~requests.seen
    if not requests.is_drawn.any():
        return _bounds(metric, requests, as_seen(requests), unseen, error_share)
    certain = replace(requests, chance=np.where(requests.seen, 1.0, 0.0))
    open_to_all = _bounds(metric, certain, as_seen(requests), unseen, error_share / 2)
    never = unseen & (requests.chance <= 0)
    drawn = _bounds(metric, requests, estimate(requests), never, error_share / 2)
    low, high = max(drawn.low, open_to_all.low), min(drawn.high, open_to_all.high)
    if not low <= high:
        return open_to_all
    return MetricBounds(drawn.value, low, high, drawn.lowest, drawn.highest)


def _bounds(
    metric: Metric, requests: PartialOutcomes, found: Floats, unknown: Flags, error_share: float
) -> MetricBounds:
    """Args: found: weight of each request's outcome. unknown: those that may be anything."""
    value = _ratio(metric, found)
    ends = [_extreme(metric, found, unknown, value, sign) for sign in (-1.0, 1.0)]
    shares = [_ratio(metric, end) for end in ends]
    if not all(math.isfinite(share) for share in shares):
        return MetricBounds(value, math.nan, math.nan, math.nan, math.nan)
    # each bound is computed at the outcomes of its own extreme
    below, above = (_width(metric, requests, end, error_share) for end in ends)
    return MetricBounds(value, shares[0] - below, shares[1] + above, *shares)


def _below(metric: Metric, found: Floats) -> float:
    return float(metric.positives @ found + metric.others.sum())


def _ratio(metric: Metric, found: Floats) -> float:
    below = _below(metric, found)
    return float(metric.hits @ found) / below if below > 0 else math.nan


def _extreme(metric: Metric, found: Floats, unknown: Flags, value: float, sign: float) -> Floats:
    """The unknown outcomes that make the metric lowest (sign -1) or highest (sign 1).

    Source: Dinkelbach (1967), On nonlinear fractional programming.
    """
    share = 0.0 if math.isnan(value) else value
    filled = found
    for _ in range(MOST_ROUNDS):
        raises = sign * (metric.hits - share * metric.positives) > 0
        filled = np.where(unknown, raises.astype(np.float64), found)
        then = _ratio(metric, filled)
        if then == share or math.isnan(then):
            break
        share = then
    return filled


def _width(metric: Metric, requests: PartialOutcomes, found: Floats, error_share: float) -> float:
    """Half the width of one bound at these outcomes, clustered by unit."""
    below = _below(metric, found)
    share = float(metric.hits @ found) / below
    slope = metric.hits - share * metric.positives
    rest = slope * found - share * metric.others
    _, cluster = np.unique(requests.unit, return_inverse=True)
    counts = np.bincount(cluster, weights=metric.positives * np.abs(found) + metric.others)
    clusters = int((counts > 0).sum())
    variance = float((np.bincount(cluster, weights=rest) ** 2).sum())
    variance *= clusters / max(clusters - 1, 1)
    plain = float((rest**2).sum()) if clusters > 1 else 0.0
    alike = float((counts**2).sum() / counts.sum())
    size = float(event_size(variance, plain, hits=below, alike=alike))
    if (drawn := requests.is_drawn).any():
        # with few draws, a draw that is still to come weighs as much as this
        size = max(size, float((np.abs(slope[drawn]) / requests.chance[drawn]).max()))
    return size * sequence_width(variance / size**2, error_share=error_share) / below
