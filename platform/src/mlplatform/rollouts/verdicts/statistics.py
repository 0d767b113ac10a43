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
    """How much evidence there is against a split, as a p-value that may be read at any time.

    It falls below x at any look of a fair split, whenever counting stops, with probability x at
    most: it is the inverse of the ratio of two likelihoods, that of a share drawn from a beta
    distribution around the one asked for (as wide as the share itself) and that of the share.

    Args:
        challengers: first appearances in the challenger's arm.
        units: first appearances in both arms.
        share: the share that was asked for.

    Source: Ville (1939); Lindon and Malek (2022), Anytime-valid inference for multinomial count
    data, section 3, for two arms.
    """
    if units <= 0:
        return math.nan
    others, a, b = units - challengers, 1.0, (1 - share) / share
    if share >= 1:
        return 0.0 if others else 1.0
    mixed = special.betaln(a + challengers, b + others) - special.betaln(a, b)
    asked = challengers * math.log(share) + others * math.log1p(-share)
    return float(math.exp(min(0.0, asked - mixed)))


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
