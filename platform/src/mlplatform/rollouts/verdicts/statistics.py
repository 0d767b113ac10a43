"""Intervals for shares and for differences of two arms, robust to clusters, from counts alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
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


def sequence_width(variance: float, *, error_share: float) -> float:
    """Half the width of a one-sided bound on a sum of events that holds at every look.

    The bound is wrong at any time, ever, with probability `error_share` at most (asymptotically;
    the simulations in tests hold it to that for sums that are as lumpy as failures). Where nothing
    varied it is 1.4 log(1 / error_share): log(1 / error_share) trials without an event would leave
    as much open at a single look.

    Args:
        variance: of the sum, in events squared.

    Source: Robbins (1970), the normal mixture; Howard, Ramdas, McAuliffe and Sekhon (2021),
    Time-uniform, nonparametric, nonasymptotic confidence sequences, equation 14; Waudby-Smith,
    Arbour, Sinha, Kennedy and Ramdas (2024), Time-uniform central limit theory, for estimated
    variances.
    """
    information = math.log(1 / error_share)
    return math.sqrt(
        (variance + information) * (2 * information + math.log(variance / information + 1))
    )


@dataclass(frozen=True, slots=True)
class Clusters:
    """Hits among trials of both arms; one number per cluster (a customer, say), in one order.

    Where one cluster has trials of both arms, as in shadow, what they share cancels out.
    """

    challenger_hits: Counts
    challenger_trials: Counts
    champion_hits: Counts
    champion_trials: Counts


@dataclass(frozen=True, slots=True)
class Difference:
    """The challenger's share less what is expected of it, with bounds that hold at every look.

    Args:
        challenger, champion: shares (0-1) of hits among trials; NaN: no trials.
        expected: what the challenger's share was to be.
        stop_low, stop_high: bounds with the error share of a false alarm, on either side.
        pass_low, pass_high: bounds with the error share of missed harm, on either side.
        trials: the challenger's.
    """

    challenger: float
    champion: float
    expected: float
    stop_low: float
    stop_high: float
    pass_low: float
    pass_high: float
    trials: int

    @property
    def value(self) -> float:
        return self.challenger - self.expected


SHRINKAGE_HITS = 5
"""Hits that count for clusters in which all trials have one outcome, when the size of an event is
estimated: of no hits at all nothing can be learned about how they cluster."""


def share_difference(
    views: Sequence[Clusters], *, stop_error: float, pass_error: float, ratio: float = 1.0
) -> Difference:
    """How much the challenger's share differs from `ratio` times the champion's.

    Args:
        views: the same trials, clustered in one way or another (by customer, by time): the view
            that leaves most open counts.
        stop_error, pass_error: chance that a bound of either kind is wrong, on one side, ever.

    Source: linearisation of a ratio, Särndal, Swensson and Wretman (1992), section 5.6.
    """
    first = views[0]
    mine, other = int(first.challenger_trials.sum()), int(first.champion_trials.sum())
    if not mine or (ratio and not other):
        nothing = math.nan
        return Difference(nothing, nothing, nothing, nothing, nothing, nothing, nothing, mine)
    p, q = first.challenger_hits.sum() / mine, first.champion_hits.sum() / max(other, 1)
    known = [_information(view, float(p), float(q), ratio) for view in views]
    stop = max(_width(v, size, stop_error) for v, size in known) / mine
    wide = max(_width(v, size, pass_error) for v, size in known) / mine
    value = float(p - ratio * q)
    return Difference(
        float(p), float(q), float(ratio * q),
        value - stop, value + stop, value - wide, value + wide, mine,
    )  # fmt: skip


def _width(variance: float, size: float, error_share: float) -> float:
    """In events of this size: clustered ones are fewer and larger."""
    return size * sequence_width(variance / size**2, error_share=error_share)


def _information(view: Clusters, p: float, q: float, ratio: float) -> tuple[float, float]:
    """Variance of the challenger's hits less the expected ones, and the size of one event."""
    a, n = view.challenger_hits, view.challenger_trials
    b, m = view.champion_hits, view.champion_trials
    mine, other = n.sum(), m.sum()
    weight = ratio * mine / max(other, 1)
    residuals = (a - p * n) - weight * (b - q * m)
    present = (n > 0) | (m > 0)
    clusters = int(present.sum())
    variance = float((residuals[present] ** 2).sum() * clusters / max(clusters - 1, 1))
    plain = float(mine * p * (1 - p) + weight**2 * other * q * (1 - q))
    hits = float(a.sum() + weight * b.sum())
    alike = float((n**2).sum() / mine)
    known = plain > 0 and clusters > 1
    estimated = min(max(variance / plain, 1.0), alike) if known else alike
    size = (hits * estimated + SHRINKAGE_HITS * alike) / (hits + SHRINKAGE_HITS)
    return variance, max(size, 1.0)


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
