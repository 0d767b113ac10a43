"""Bounds on differences of two arms that hold at every look, from sums over clusters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

Counts = npt.NDArray[np.int64]
Numbers = float | npt.NDArray[np.float64]


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
class ClusterSums:
    """What bounds need of clusters, exactly: sums over them add up in any order and portions.

    Args:
        clusters: in which there are trials.
        products: sums of the products of two of a cluster's numbers a, n, b and m (the four below,
            in their order): aa, an, ab, am, nn, nb, nm, bb, bm, mm.
    """

    clusters: int
    challenger_hits: int
    challenger_trials: int
    champion_hits: int
    champion_trials: int
    products: tuple[int, ...]

    @classmethod
    def of(cls, vector: Counts) -> ClusterSums:
        """From its fifteen numbers, in the order of the fields."""
        clusters, a, n, b, m, *products = vector.tolist()
        return cls(clusters, a, n, b, m, tuple(products))


_PAIRS = np.triu_indices(4)


def cluster_sums(counts: Counts) -> Counts:
    """The fifteen numbers of `ClusterSums`, of clusters x (a, n, b, m)."""
    present = ((counts[:, 1] > 0) | (counts[:, 3] > 0)).sum()
    products = counts.T @ counts
    return np.concatenate(([present], counts.sum(axis=0), products[_PAIRS])).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Clusters:
    """Hits among trials of both arms; one number per cluster (a customer, say), in one order.

    Where one cluster has trials of both arms, as in shadow, what they share cancels out.
    """

    challenger_hits: Counts
    challenger_trials: Counts
    champion_hits: Counts
    champion_trials: Counts

    def sums(self) -> ClusterSums:
        """What bounds need of them."""
        columns = (self.challenger_hits, self.challenger_trials,
                   self.champion_hits, self.champion_trials)  # fmt: skip
        return ClusterSums.of(cluster_sums(np.stack(columns, axis=1).astype(np.int64)))


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
    views: Sequence[ClusterSums], *, stop_error: float, pass_error: float, ratio: float = 1.0
) -> Difference:
    """How much the challenger's share differs from `ratio` times the champion's.

    Args:
        views: the same trials, clustered in one way or another (by customer, by time): the view
            that leaves most open counts.
        stop_error, pass_error: chance that a bound of either kind is wrong, on one side, ever.

    Source: linearisation of a ratio, Särndal, Swensson and Wretman (1992), section 5.6.
    """
    first = views[0]
    mine, other = first.challenger_trials, first.champion_trials
    if not mine or (ratio and not other):
        nothing = math.nan
        return Difference(nothing, nothing, nothing, nothing, nothing, nothing, nothing, mine)
    p, q = first.challenger_hits / mine, first.champion_hits / max(other, 1)
    known = [_information(view, ratio) for view in views]
    stop = max(_width(v, size, stop_error) for v, size in known) / mine
    wide = max(_width(v, size, pass_error) for v, size in known) / mine
    value = p - ratio * q
    return Difference(
        p, q, ratio * q,
        value - stop, value + stop, value - wide, value + wide, mine,
    )  # fmt: skip


def _width(variance: float, size: float, error_share: float) -> float:
    """In events of this size: clustered ones are fewer and larger."""
    return size * sequence_width(variance / size**2, error_share=error_share)


def _information(view: ClusterSums, ratio: float) -> tuple[float, float]:
    """Variance of the challenger's hits less the expected ones, and the size of one event."""
    a, n = view.challenger_hits, view.challenger_trials
    b, m = view.champion_hits, max(view.champion_trials, 1)
    aa, an, ab, am, nn, nb, nm, bb, bm, mm = view.products
    # Sums of products of residuals a - (share of hits) n, exactly: large numbers cancel out.
    own = (n * n * aa - 2 * a * n * an + a * a * nn) / (n * n)
    both = (n * m * ab - n * b * am - a * m * nb + a * b * nm) / (n * m)
    theirs = (m * m * bb - 2 * b * m * bm + b * b * mm) / (m * m)
    p, q, weight = a / n, b / m, ratio * n / m
    squares = max(own - 2 * weight * both + weight**2 * theirs, 0.0)
    variance = squares * view.clusters / max(view.clusters - 1, 1)
    plain = n * p * (1 - p) + weight**2 * m * q * (1 - q)
    hits = a + weight * b
    alike = nn / n
    known = plain if view.clusters > 1 else 0.0
    size = event_size(variance, known, hits=hits, alike=alike)
    return variance, float(size)


def event_size(
    variance: Numbers, plain: Numbers, *, hits: Numbers, alike: Numbers
) -> npt.NDArray[np.float64]:
    """How many hits one event holds, in a sum of hits that come in clusters; element by element.

    Args:
        variance: of the sum.
        plain: what it would be of independent trials; 0: not known.
        hits: that were summed.
        alike: hits of one event if all trials of a cluster had one outcome.
    """
    known = np.greater(plain, 0)
    effect = np.where(known, variance / np.where(known, plain, 1.0), alike)
    estimated = np.minimum(np.maximum(effect, 1.0), alike)
    size = (hits * estimated + SHRINKAGE_HITS * alike) / (hits + SHRINKAGE_HITS)
    return np.maximum(size, 1.0)


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
