"""Exact and cluster-robust intervals for shares, from counts alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Share:
    """A share (0-1) with its two-sided interval; NaN where nothing was counted.

    Args:
        effective: the number of independent trials that the counts are worth.
    """

    value: float
    low: float
    high: float
    effective: float


NOTHING = Share(math.nan, math.nan, math.nan, 0.0)


def clopper_pearson(hits: float, trials: float, *, error_share: float) -> tuple[float, float]:
    """The exact two-sided interval of a binomial share; fractional counts are allowed.

    Args:
        error_share: chance that the interval misses the true share, half of it on either side.

    Source: Clopper and Pearson (1934), as quantiles of the beta distribution.
    """
    if not trials > 0:
        return math.nan, math.nan
    tail = error_share / 2
    low = special.betaincinv(hits, trials - hits + 1, tail) if hits > 0 else 0.0
    high = special.betaincinv(hits + 1, trials - hits, 1 - tail) if hits < trials else 1.0
    return float(low), float(high)


def clustered_share(hits: Counts, trials: Counts, *, error_share: float) -> Share:
    """The share of hits among trials that come in clusters (the requests of one customer).

    The exact interval at the effective sample size: trials over the design effect, lowered for the
    degrees of freedom behind it; never more than the trials, and never less than clusters would be
    worth in which all trials have one outcome, the most alike that they can be. Where the design
    effect can't be estimated (all hits, no hits, one cluster), that is what they count for.

    Args:
        hits, trials: one number per cluster; clusters without trials do not count.
        error_share: chance that the interval misses the true share.

    Source: Korn and Graubard (1998), Survey Methodology 24(2); the variance of a ratio estimator;
    Kish (1965), Survey Sampling, for clusters of unequal size.
    """
    counted = trials > 0
    hits, trials = hits[counted], trials[counted]
    if not len(trials):
        return NOTHING
    share = float(hits.sum() / trials.sum())
    effective = _effective_trials(hits, trials, share, error_share)
    low, high = clopper_pearson(share * effective, effective, error_share=error_share)
    return Share(share, low, high, effective)


def sample_ratio_p_value(challengers: int, units: int, *, share: float) -> float:
    """How likely a split at least this uneven is, when counting stops at the last challenger.

    Args:
        challengers: first appearances in the challenger's arm; the last unit counted is one.
        units: first appearances in both arms.
        share: the share that was asked for.

    Two-sided. Counting stops at a fixed number of challengers, so the number of units is negative
    binomial; both tails are then binomial ones, exactly.
    """
    if challengers <= 0 or units < challengers:
        return math.nan
    too_many = special.betainc(challengers, units - challengers + 1, share)
    if units == challengers:
        too_few = 1.0
    else:
        too_few = special.betaincc(challengers, units - challengers, share)
    return float(min(1.0, 2 * min(too_many, too_few)))


def _effective_trials(hits: Counts, trials: Counts, share: float, error_share: float) -> float:
    clusters, total = len(trials), int(trials.sum())
    least = float(total**2 / (trials**2).sum())
    if clusters == 1 or share in (0.0, 1.0):
        return least
    residuals = hits - share * trials
    variance = float(clusters / (clusters - 1) * (residuals**2).sum() / total**2)
    if variance <= 0:
        return least
    quantile = 1 - error_share / 2
    correction = special.stdtrit(max(total - 1, 1), quantile) / special.stdtrit(
        clusters - 1, quantile
    )
    return float(min(max(share * (1 - share) / variance * correction**2, least), total))
