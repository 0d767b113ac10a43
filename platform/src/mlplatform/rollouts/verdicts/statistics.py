"""Bounds on differences of two arms that hold at every interim analysis, from sums over
clusters."""

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
    """Half the width of a one-sided bound on a sum of events. The bound holds at every interim
    analysis.

    The bound is wrong at any time, ever, with probability `error_share` at most (asymptotically;
    the simulations in tests hold it to that for sums that are as lumpy as failures). Where nothing
    varied it is 1.4 log(1 / error_share): log(1 / error_share) trials without an event would leave
    as much open at a single interim analysis.

    Args:
        variance: variance of the sum, in squared events.

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
    """Exact sums over clusters, from which bounds are computed; they add up in any order and
    portions.

    Args:
        clusters: number of clusters with at least one trial.
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
        """The sums of fifteen numbers, in the order of the fields."""
        clusters, a, n, b, m, *products = vector.tolist()
        return cls(clusters, a, n, b, m, tuple(products))

    @property
    def is_paired(self) -> bool:
        """Whether both arms answered the same requests, as in shadow."""
        nn, nm = self.products[4], self.products[6]
        return 2 * nm > nn


_PAIRS = np.triu_indices(4)


def cluster_sums(counts: Counts) -> Counts:
    """The fifteen numbers of `ClusterSums`, of clusters x (a, n, b, m)."""
    present = ((counts[:, 1] > 0) | (counts[:, 3] > 0)).sum()
    products = counts.T @ counts
    return np.concatenate(([present], counts.sum(axis=0), products[_PAIRS])).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Clusters:
    """Hits among trials of both arms: one number per cluster (a customer, for example), in one
    order.

    Where one cluster has trials of both arms, as in shadow, what they share cancels out.
    """

    challenger_hits: Counts
    challenger_trials: Counts
    champion_hits: Counts
    champion_trials: Counts

    def sums(self) -> ClusterSums:
        """The sums over these clusters."""
        columns = (self.challenger_hits, self.challenger_trials,
                   self.champion_hits, self.champion_trials)  # fmt: skip
        return ClusterSums.of(cluster_sums(np.stack(columns, axis=1).astype(np.int64)))


@dataclass(frozen=True, slots=True)
class Difference:
    """The challenger's share less what is expected of it, with bounds that hold at every interim
    analysis.

    Args:
        challenger, champion: shares (0-1) of hits among trials; NaN if there are no trials.
        expected: expected share of the challenger.
        stop_low, stop_high: bounds at the error rate of a false alarm, one-sided each.
        pass_low, pass_high: bounds at the error rate of missed harm, one-sided each.
        trials: number of the challenger's trials.
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

    @property
    def stop_width(self) -> float:
        """Half of the distance between the stop bounds."""
        return (self.stop_high - self.stop_low) / 2

    @property
    def pass_width(self) -> float:
        return (self.pass_high - self.pass_low) / 2


SHRINKAGE_HITS = 5
"""Hits assumed for clusters whose trials all have one outcome, when the size of an event is
estimated: without hits nothing shows how they cluster."""


BY_ONE_SAMPLE = 4
"""The divisor of an error where noise drawn once comes on top of noise looked at for ever. At some
look both together exceed the root of the sum of their squares up to 2.3 times as often as either
does alone, by simulation (errors of 0.05 to 0.001)."""


def share_difference(
    views: Sequence[ClusterSums],
    *,
    stop_error: float,
    pass_error: float,
    ratio: float = 1.0,
    noise: float = 0.0,
    as_champion: bool = False,
) -> Difference:
    """The difference of the challenger's share from `ratio` times the champion's, with bounds.

    Args:
        as_champion: the champion's hits also tell how large one event is, where it isn't compared.
        noise: variance of the expected share, if one sample has given it; else 0. Only the bounds
            of a stop use it. A pass is held to what that sample said, which people approve.
        views: the same trials, clustered in different ways (by customer, by time); the view with
            the widest bounds counts.
        stop_error, pass_error: probability that a bound of this kind is ever wrong, on one side.

    Source: linearisation of a ratio, Särndal, Swensson and Wretman (1992), section 5.6.
    """
    first = views[0]
    mine, other = first.challenger_trials, first.champion_trials
    if not mine or (ratio and not other):
        nothing = math.nan
        return Difference(nothing, nothing, nothing, nothing, nothing, nothing, nothing, mine)
    p, q = first.challenger_hits / mine, first.champion_hits / max(other, 1)
    known = [_information(view, ratio) for view in views]
    if as_champion:
        known = [(v, _event_of_both(view)) for (v, _), view in zip(known, views, strict=True)]

    def width(error_share: float, once: float) -> float:
        part = error_share / BY_ONE_SAMPLE if once else error_share
        widest = max(_width(v, size, part) for v, size in known) / mine
        return math.hypot(widest, special.ndtri(part) * math.sqrt(once))

    stop, wide = width(stop_error, noise), width(pass_error, 0.0)
    value = p - ratio * q
    return Difference(
        p, q, ratio * q,
        value - stop, value + stop, value - wide, value + wide, mine,
    )  # fmt: skip


def rise_of_mean(
    unit: npt.NDArray[np.int64],
    mine: npt.NDArray[np.float64],
    other: npt.NDArray[np.float64],
    *,
    stop_error: float,
    pass_error: float,
) -> Difference:
    """How far the mean of `mine` lies above the mean of `other`, as a share of the latter, with
    bounds that hold at every interim analysis. Both are numbers of the same requests.

    One event is as large as the most that one unit adds: the bounds stay wide while few units make
    most of the difference.

    Args:
        unit: customer of each request.
        mine, other: numbers of each request, 0 or more; `other` is never 0. Both means are given as
            shares of the mean of `other`.
        stop_error, pass_error: as in `share_difference`.

    Source: as `share_difference`.
    """
    requests, base = len(unit), float(other.mean())
    value = float(mine.mean()) / base - 1
    _, cluster = np.unique(unit, return_inverse=True)
    sums = np.bincount(cluster, weights=(mine - (1 + value) * other) / base)
    clusters = len(sums)
    variance = float((sums**2).sum()) * clusters / max(clusters - 1, 1)
    size = max(1.0, float(np.abs(sums).max()))
    stop, wide = (_width(variance, size, e) / requests for e in (stop_error, pass_error))
    return Difference(
        1 + value, 1.0, 1.0,
        value - stop, value + stop, value - wide, value + wide, requests,
    )  # fmt: skip


def _width(variance: float, size: float, error_share: float) -> float:
    """The width of a bound for hits in events of this size: clustered events are fewer and
    larger."""
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


def _event_of_both(view: ClusterSums) -> float:
    """The size of one event by the hits of both arms, for as many trials of either."""
    a, n, b = view.challenger_hits, view.challenger_trials, view.champion_hits
    m, nn = view.champion_trials, view.products[4]
    variance, plain, hits = _challenger_variance(view), a * (1 - a / n), float(a)
    if m:
        weight = n / m
        variance += weight**2 * _champion_variance(view)
        plain, hits = plain + weight**2 * b * (1 - b / m), hits + weight * b
    variance *= view.clusters / max(view.clusters - 1, 1)
    known = plain if view.clusters > 1 else 0.0
    return float(event_size(variance, known, hits=hits, alike=nn / n))


def event_size(
    variance: Numbers, plain: Numbers, *, hits: Numbers, alike: Numbers
) -> npt.NDArray[np.float64]:
    """The number of hits in one event, for a sum of hits that come in clusters; element by element.

    Args:
        variance: variance of the sum.
        plain: variance of the sum if the trials were independent; 0 if it is not known.
        hits: number of summed hits.
        alike: hits of one event if all trials of a cluster had the same outcome.
    """
    known = np.greater(plain, 0)
    effect = np.where(known, variance / np.where(known, plain, 1.0), alike)
    estimated = np.minimum(np.maximum(effect, 1.0), alike)
    size = (hits * estimated + SHRINKAGE_HITS * alike) / (hits + SHRINKAGE_HITS)
    return np.maximum(size, 1.0)


@dataclass(frozen=True, slots=True)
class RareEvents:
    """Hits that did not cause one another, and the trials in which one could have begun."""

    hits: Numbers
    trials: Numbers


def first_of_each(stretches: Counts) -> RareEvents:
    """The first hit of each outage: hits in stretches before which trials went without one.

    An outage is one event, however long it is: while it lasts, and until `CALM_TRIALS` trials have
    gone well, nothing that follows counts.

    Args:
        stretches: hits and trials of each stretch of time [stretches, 2], in order of time.
    """
    hits, trials = stretches[stretches[:, 1] > 0].T
    before = trials.cumsum() - trials
    ended = np.maximum.accumulate(np.where(hits > 0, before + trials, -CALM_TRIALS))
    ended = np.concatenate([[-CALM_TRIALS], ended[:-1]])[: len(hits)]
    fresh = before - ended >= CALM_TRIALS
    return RareEvents(float((hits[fresh] > 0).sum()), float(trials[fresh].sum()))


CALM_TRIALS = 5
"""The number of trials in a row without a hit that end an outage. An outage that fails half of its
requests thus goes on."""


def change_of_champion(view: ClusterSums, share: float, trials: int) -> float:
    """The distance of the champion's share of hits from its share in other trials, in standard
    errors.

    Customers are clusters in both; with more trials, each customer has more of them.

    Args:
        share: share of hits in those trials.
    """
    hits, seen = view.champion_hits, view.champion_trials
    if not seen:
        return 0.0
    pooled = (hits + share * trials) / (seen + trials)
    effect = design_effect(view)
    elsewhere = 1 + (effect - 1) * trials / seen
    variance = pooled * (1 - pooled) * (effect / seen + elsewhere / trials)
    return (hits / seen - share) / math.sqrt(variance) if variance else 0.0


def design_effect(view: ClusterSums) -> float:
    """The champion's design effect: the variance of its hits over that of independent trials; 1 or
    more.

    Source: Kish (1965), Survey sampling, section 8.2.
    """
    hits, seen = view.champion_hits, view.champion_trials
    plain = hits * (1 - hits / seen) if seen else 0.0
    return max(_champion_variance(view) / plain, 1.0) if plain else 1.0


def design_effect_of_challenger(view: ClusterSums) -> float:
    """The challenger's design effect, as `design_effect` gives the champion's."""
    a, n = view.challenger_hits, view.challenger_trials
    plain = a * (1 - a / n) if n else 0.0
    return max(_challenger_variance(view) / plain, 1.0) if plain else 1.0


def champion_events(views: Sequence[ClusterSums]) -> RareEvents:
    """The champion's hits, counted as events; the event size is the largest that any view gives."""
    hits, trials = views[0].champion_hits, views[0].champion_trials
    size = max((_champion_size(view) for view in views if view.champion_trials), default=1.0)
    return RareEvents(hits / size, trials / size)


def _champion_size(view: ClusterSums) -> float:
    b, m, mm = view.champion_hits, view.champion_trials, view.products[9]
    plain = b * (1 - b / m) if view.clusters > 1 else 0.0
    return float(event_size(_champion_variance(view), plain, hits=b, alike=mm / m))


def _challenger_variance(view: ClusterSums) -> float:
    a, n, (aa, an, _, _, nn) = view.challenger_hits, view.challenger_trials, view.products[:5]
    return (n * n * aa - 2 * a * n * an + a * a * nn) / (n * n)


def _champion_variance(view: ClusterSums) -> float:
    b, m, (bb, bm, mm) = view.champion_hits, view.champion_trials, view.products[7:]
    return (m * m * bb - 2 * b * m * bm + b * b * mm) / (m * m)


_RATIOS = np.concatenate([[1.0], np.geomspace(1.25, 40.0, 16)])
"""Possible ratios of the challenger's share to the largest allowed one, mixed with equal
weights."""
_PARTS = np.array([0.0, 0.05, 0.1, 0.2, 0.35, 0.55, 0.8, 1.0])
"""Possible ratios of the champion's share to a share that it may have, mixed with equal weights."""
_SHARES = np.concatenate([[0.0], np.geomspace(1e-4, 1.0, 48)])


def excess_evidence(
    views: Sequence[RareEvents], champion: RareEvents, *, more: float
) -> npt.NDArray[np.float64]:
    """Logarithm of the evidence that the challenger's share exceeds the champion's by over `more`.

    It is an e-process: where the challenger's share is no larger, it passes log(1 / error) at any
    interim analysis, ever, with the chance `error` at most. A view's hits are 0 or 1 in a stretch
    of trials (a customer's day, some time); only their expected share needs to be bounded. The
    champion's share is unknown: for each possible share, the evidence against the challenger's is
    added to that against the champion's, and the least sum counts. Arms may fail together; if one
    fails when the other does not, that is taken for chance. Views leave out what follows an event,
    but the champion's events do not. If both arms fail only at some hours and for some customers,
    the views may show more than there is. So `failure_gate` takes no more for proven than was
    counted.

    Args:
        views: the challenger's events, clustered in different ways; the view with the least
            evidence counts.
        champion: the champion's events; clustered ones count as one.

    Source: Robbins (1970) and Howard, Ramdas, McAuliffe and Sekhon (2021), section 4.2, mixtures
    for sums of Poisson type; Ramdas, Grünwald, Vovk and Shafer (2023), Game-theoretic statistics,
    for the least over a composite hypothesis.
    """
    beyond = np.minimum.reduce([_above(view, _SHARES[1:] + more) for view in views])
    below = np.concatenate(
        [np.zeros((*np.shape(champion.hits), 1)), _below(champion, _SHARES[1:-1])], axis=-1
    )
    # for each pair of neighbouring shares: the challenger's evidence at the upper one and the
    # champion's at the lower one, so that no share between them has less
    return np.asarray(np.minimum.reduce(beyond + below, axis=-1))


def _above(seen: RareEvents, shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Logarithm of the mixed likelihood ratio of larger shares to each of these shares."""
    hits, trials = (np.asarray(x, dtype=float)[..., None, None] for x in (seen.hits, seen.trials))
    logs = hits * np.log(_RATIOS) - trials * shares[:, None] * (_RATIOS - 1)
    return np.asarray(special.logsumexp(logs, axis=-1) - math.log(len(_RATIOS)))


def _below(seen: RareEvents, shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Logarithm of the mixed likelihood ratio of smaller shares to each of these shares."""
    hits, trials = (np.asarray(x, dtype=float)[..., None, None] for x in (seen.hits, seen.trials))
    logs = special.xlogy(hits, _PARTS) + trials * shares[:, None] * (1 - _PARTS)
    return np.asarray(special.logsumexp(logs, axis=-1) - math.log(len(_PARTS)))


_HALVINGS = 14


def proven_excess(
    views: Sequence[RareEvents], champion: RareEvents, *, error_share: float
) -> float:
    """The share of its trials that the challenger hits more than the champion, at least; 0 if no
    excess is proven."""
    wanted, low, high = math.log(1 / error_share), 0.0, 1.0
    if excess_evidence(views, champion, more=0.0) < wanted:
        return 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        is_proven = excess_evidence(views, champion, more=middle) >= wanted
        low, high = (middle, high) if is_proven else (low, middle)
    return low


def sample_ratio_p_value(challengers: int, units: int, *, share: float) -> float:
    """The p-value of the split, which may be read at any time; small values are evidence against
    the split.

    It falls below x at any interim analysis of a fair split, whenever counting stops, with
    probability x at most. It is the inverse of the ratio of two likelihoods: that of a share drawn
    from a beta distribution around the one asked for (as wide as the share itself), and that of the
    share.

    Args:
        challengers: number of customers that appeared first in the challenger's arm.
        units: number of customers that appeared first in either arm.
        share: share (0-1) of customers that the challenger's arm was to get.

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
