"""Simulated paths of a gate's bounds during a step, drawn from a traffic profile.

Each path holds the counts that the gate would read at each interim analysis, drawn for a challenger
of a known truth; the bounds on them are those of the judge (`event_size`, `sequence_width`). Hits
that come together (an outage, a customer) are drawn together, as often as the profile says.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import special

from mlplatform.rollouts.verdicts.aggregates import (
    LONG_OUTAGES,
    MOST_OUTAGES,
    OUTAGE_SLICE_MS,
)
from mlplatform.rollouts.verdicts.statistics import (
    BY_ONE_SAMPLE,
    CALM_TRIALS,
    RareEvents,
    event_size,
    excess_evidence,
    sequence_width,
)
from mlplatform.rollouts.verdicts.traffic_profile import QUANTILES, TrafficProfile
from mlplatform.rollouts.verdicts.verdict import Prediction
from mlplatform.runtime.units import HOUR_MS

Floats = npt.NDArray[np.float64]

FEW_HITS = 0.2
"""Share of hits up to which they are drawn as rare events; more hits vary to both sides alike."""
ALONE = 0.05
"""Number of hits beside each hit below which hits are drawn independently."""


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """The sums that a gate reads, by path and interim analysis.

    Args:
        difference: the challenger's hits less the expected ones.
        scale: divisor of difference and width, to give them as shares.
        hits: hits of both arms, as the judge counts them.
        plain: variance of the difference if all trials were independent.
        views: (variance of the difference, hits of one event at most), for each kind of clusters.
        shift: error of the expectation, as a share; it is added to the difference.
        once: standard deviation of the shift, by interim analysis, if the bound counts it; else 0.
    """

    difference: Floats
    scale: Floats
    hits: Floats
    plain: Floats
    views: tuple[tuple[Floats, Floats], ...]
    shift: Floats
    once: Floats | float = 0.0

    @property
    def value(self) -> Floats:
        return self.difference / np.maximum(self.scale, 1e-9) + self.shift

    def width(self, error_share: float) -> Floats:
        """Width of a one-sided bound at this error rate; infinite if nothing is expected."""
        part = error_share / BY_ONE_SAMPLE if np.any(self.once) else error_share
        widths = [self._width(variance, alike, part) for variance, alike in self.views]
        widest = np.maximum.reduce(widths) / np.maximum(self.scale, 1e-9)
        widest = np.hypot(widest, special.ndtri(part) * self.once)
        return np.where(self.scale > 0, widest, np.inf)

    def _width(self, variance: Floats, alike: Floats, error_share: float) -> Floats:
        size = event_size(variance, self.plain, hits=self.hits, alike=alike)
        return np.asarray(size * _widths(variance / size**2, error_share))


@dataclass(frozen=True, slots=True)
class AnalysisSchedule:
    """The times at which a step is looked at, with the traffic until then.

    Args:
        hours: hours of the interim analyses, ascending.
        share: share (0-1) of customers in the challenger's arm; None in shadow, where both arms
            decide everything.
        paths: number of paths to draw.
    """

    profile: TrafficProfile
    hours: Floats
    share: float | None
    paths: int
    seed: int

    def rng(self, gate: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, *gate.encode()])

    def trials(self) -> tuple[Floats, Floats]:
        """Requests of the challenger and of the champion at each interim analysis."""
        every = np.tile(self.profile.requests_h * self.hours, (self.paths, 1))
        if self.share is None:
            return every, every
        part, _ = self.arm()
        return every * part, every * (1 - part)

    def arm(self) -> tuple[Floats, Floats]:
        """The share of the requests of the customers drawn into the challenger's arm, and the other
        requests an hour by the customer of a request. A few customers make most requests."""
        people, rates = np.array(self.profile.customers).T
        repeat = np.full((self.paths, 1), self.profile.repeat_h)
        if self.share is None:
            return np.ones_like(repeat), repeat
        everyone = np.maximum(np.rint(people), 1).astype(np.int64)
        drawn = self.rng("customers").binomial(everyone, self.share, (self.paths, len(people)))
        mine_h = np.maximum(drawn @ rates, self.share / 5 * (everyone @ rates))
        alike = (drawn @ rates**2) / mine_h / (everyone @ rates**2 / (everyone @ rates))
        part = np.minimum(mine_h / (everyone @ rates), 1 - (1 - self.share) / 5)
        return part[:, None], repeat * alike[:, None]

    def hits_beside(self, full: float) -> tuple[float, float]:
        """The number of hits beside each hit, in the challenger's arm and in the champion's."""
        if self.share is None:
            return full, full
        return full * self.share, full * (1 - self.share)

    def alike_in_time(self, trials: Floats, most: int = MOST_OUTAGES) -> Floats:
        """Trials in one of at most `most` stretches of time; failures in it may be one outage."""
        wall_ms = self.hours / self.profile.speed * HOUR_MS
        slices = np.maximum(wall_ms / OUTAGE_SLICE_MS, 1.0)
        pieces = slices / 2 ** np.ceil(np.log2(np.maximum(slices / most, 1.0)))
        return np.asarray(1 + trials / np.maximum(pieces, 1.0))

    def alike_by_day(self) -> Floats:
        """The number of requests of a customer on a day."""
        return 1 + self.arm()[1] * np.minimum(self.hours, 24.0)

    def alike_by_customer(self) -> Floats:
        """The number of requests of a customer."""
        return 1 + self.arm()[1] * self.hours


def failures(schedule: AnalysisSchedule, *, more: float, is_proof: bool = False) -> Sums:
    """Failures of both arms, where the challenger fails the share `more` of requests more.

    Args:
        is_proof: sums for a proof that it fails more; these count by long stretches of time too.
    """
    rng, profile = schedule.rng("failures"), schedule.profile
    mine, other = schedule.trials()
    here, there = schedule.hits_beside(profile.failed_together)
    a, a_squares = _hits(rng, mine, profile.failed, here)
    b, b_squares = _hits(rng, other, profile.failed, there)
    if more:
        added = _hits(schedule.rng("more failures"), mine, more, 0.0)[0]
        a, a_squares = a + added, a_squares + added
    found = _arms(schedule, (a, a_squares, mine), (b, b_squares, other))
    if not is_proof:
        return found
    by_time = (found.views[0][0], schedule.alike_in_time(mine, LONG_OUTAGES))
    return replace(found, views=(*found.views, by_time))


_LATEST, _EVERY = 72, 2
"""The interim analyses at which evidence by events is read: of the latest 72 before the last, every
second one."""


def failure_evidence(schedule: AnalysisSchedule, *, more: float, limit: float) -> Floats:
    """The judge's evidence, by path and interim analysis, that a challenger that fails this share
    of requests more fails over `limit` more; none at interim analyses that are not read."""
    rng, profile = schedule.rng("failures"), schedule.profile
    mine, other = schedule.trials()
    here, there = schedule.hits_beside(profile.failed_together)
    a, _ = _hits(rng, mine, profile.failed, here)
    b, b_squares = _hits(rng, other, profile.failed, there)
    added = _hits(schedule.rng("more failures"), mine, more, 0.0)[0]
    calm = (1 - profile.failed - more) ** CALM_TRIALS
    q = np.clip(b / np.maximum(other, 1), 0, 1)
    sizes = [
        event_size(b_squares, other * q * (1 - q), hits=b, alike=alike)
        for alike in (schedule.alike_in_time(other), schedule.alike_by_day())
    ]
    size = np.maximum.reduce(np.broadcast_arrays(*sizes))
    found, last = np.full(mine.shape, -np.inf), len(schedule.hours)
    read = slice(max(last - _LATEST, 0), last, _EVERY)
    at = (slice(None), read)
    challenger = RareEvents((a / (1 + here) + added)[at] * calm, mine[at] * calm)
    champion = RareEvents((b / size)[at], (other / size)[at])
    found[at] = excess_evidence([challenger], champion, more=limit)
    return found


def latency(
    schedule: AnalysisSchedule, quantile: float, *, ratio: float, slower: float = 1.0
) -> Sums:
    """Slow answers of both arms: the challenger's above the champion's quantile times `ratio`, less
    the champion's above its quantile, where the challenger is `slower` times as slow."""
    rng, profile = schedule.rng(f"latency {quantile}"), schedule.profile
    mine, other = schedule.trials()
    together = profile.slow_together[QUANTILES.index(quantile)]
    here, there = schedule.hits_beside(together)
    share = profile.slower(ratio / slower * profile.quantile_us(quantile))
    a, a_squares = _hits(rng, mine, share, here)
    b, b_squares = _hits(rng, other, 1 - quantile, there)
    return _arms(schedule, (a, a_squares, mine), (b, b_squares, other))


def _arms(
    schedule: AnalysisSchedule,
    mine: tuple[Floats, Floats, Floats],
    other: tuple[Floats, Floats, Floats],
) -> Sums:
    """A comparison of shares, clustered by outage and by customer and day."""
    a, a_squares, n = mine
    b, b_squares, m = other
    weight = n / np.maximum(m, 1)
    p, q = np.clip(a / n, 0, 1), np.clip(b / np.maximum(m, 1), 0, 1)
    plain = n * p * (1 - p) + weight**2 * m * q * (1 - q)
    in_time = a_squares + weight**2 * b_squares
    views = ((in_time, schedule.alike_in_time(n)), (plain, schedule.alike_by_day()))
    compared = np.where(m > 0, n, 0.0)  # without customers of the champion nothing is shown
    return Sums(a - weight * b, compared, a + weight * b, plain, views, np.zeros((len(n), 1)))


@dataclass(frozen=True, slots=True)
class Alerts:
    """The alerts expected of a challenger, as shares of all requests.

    Args:
        own, champion, both: share of requests with an alert of each arm, and of both arms.
        prediction: what a replay of recent requests predicted.
    """

    own: float
    champion: float
    both: float
    prediction: Prediction

    @classmethod
    def predicted(cls, own: float, champion: float, alone: float, prediction: Prediction) -> Alerts:
        """Expected alerts, from the share of requests with an alert of either arm on which only one
        arm raised it."""
        both = (own + champion) * (1 - alone) / (2 - alone)
        return cls(own, champion, min(both, own, champion), prediction)

    @property
    def either(self) -> float:
        return self.own + self.champion - self.both

    @property
    def ratio(self) -> float:
        return self.own / self.champion

    @property
    def disagreement(self) -> float:
        replay = self.prediction
        return replay.disagreement if replay.by_decision else 1 - self.both / self.either

    @property
    def beside(self) -> tuple[float, float]:
        """The number of hits beside each alert of one arm alone: as their difference clusters, and
        as their share does."""
        replay = self.prediction
        return (replay.design_effect or 1.0) - 1, (replay.flip_design_effect or 1.0) - 1


def alert_pairs(schedule: AnalysisSchedule, expected: Alerts, *, more: float) -> Sums:
    """Alerts of both arms on the same requests, as a share of those expected, where the challenger
    raises the share `more` of them more."""
    rng, (beside, _) = schedule.rng("alerts"), expected.beside
    n, _ = schedule.trials()
    ratio = expected.ratio
    own, own_squares = _hits(rng, n, expected.own - expected.both, beside)
    other, other_squares = _hits(rng, n, expected.champion - expected.both, beside)
    both = _hits(rng, n, expected.both, 0.0)[0]
    added = _hits(schedule.rng("more alerts"), n, more * expected.own, beside)
    own, own_squares = own + added[0], own_squares + added[1]
    a, b = own + both, other + both
    variance = own_squares + ratio**2 * other_squares + (1 - ratio) ** 2 * both
    once = _ratio_deviation(schedule, expected)
    return Sums(
        difference=a - ratio * b,
        scale=ratio * b,
        hits=a + ratio * b,
        plain=a + ratio**2 * b,
        views=((variance, schedule.alike_by_customer()),),
        shift=_drawn(schedule, once),
        once=once,
    )


def alert_arms(schedule: AnalysisSchedule, expected: Alerts, *, more: float, at: float) -> Sums:
    """Alerts of both arms on requests of different customers, as a share of those expected.

    Args:
        at: deviation to which bounds are held.
    """
    mine, other = schedule.trials()
    a, a_variance = _customers_alerts(schedule, "own", mine, expected.own * (1 + more))
    b, b_variance = _customers_alerts(schedule, "champion's", other, expected.champion)
    weight = expected.ratio * mine / np.maximum(other, 1)
    multiple, once = weight * (1 + at), _ratio_deviation(schedule, expected)
    return Sums(
        difference=a - weight * b,
        scale=weight * b,
        hits=a + multiple * b,
        plain=a + multiple**2 * b,
        views=((a_variance + multiple**2 * b_variance, schedule.alike_by_customer()),),
        shift=_drawn(schedule, once),
        once=once * (1 + at) if expected.prediction.design_effect is not None else 0.0,
    )


def alerts_by_replay(schedule: AnalysisSchedule, expected: Alerts, *, more: float) -> Sums | None:
    """Alerts as a share of those that the replay predicted; None if it predicted none."""
    replay = expected.prediction
    if replay.alert_share is None:
        return None
    mine, _ = schedule.trials()
    a, variance = _customers_alerts(schedule, "own", mine, expected.own * (1 + more))
    expected_alerts = replay.alert_share * mine
    views = ((variance, schedule.alike_by_customer()),)
    spread = math.sqrt(1 / (expected.own * replay.requests)) if replay.requests else 0.0
    shift = _drawn(schedule, np.full_like(schedule.hours, spread))
    return Sums(a - expected_alerts, expected_alerts, a, a, views, shift)


def disagreement(schedule: AnalysisSchedule, expected: Alerts, *, more: float) -> Sums:
    """Requests that the arms decided differently, among those with an alert of either."""
    rng, (_, beside) = schedule.rng("disagreement"), expected.beside
    n, _ = schedule.trials()
    share = min(expected.disagreement + more, 1.0)
    only = _hits(rng, n, expected.either * share, beside)[0]
    trials = only + _hits(rng, n, expected.either * (1 - share), 0.0)[0]
    p = only / np.maximum(trials, 1)
    plain = trials * p * (1 - p)
    profile, replay = schedule.profile, expected.prediction
    beside_h = profile.alert_repeat_h + expected.either * profile.repeat_h
    sampled = expected.disagreement * (1 - expected.disagreement)
    replayed = replay.requests * expected.either / (1 + beside)
    alike = np.tile(1 + beside_h * schedule.hours, (schedule.paths, 1))
    spread = math.sqrt(sampled / replayed) if replayed else 0.0
    return Sums(
        difference=only - expected.disagreement * trials,
        scale=trials,
        hits=only,
        plain=plain,
        views=((plain * (1 + beside), alike),),
        shift=_drawn(schedule, np.full_like(schedule.hours, spread)),
        once=np.sqrt(replay.disagreement_variance(1 + beside)),
    )


def _customers_alerts(
    schedule: AnalysisSchedule, arm: str, trials: Floats, share: float
) -> tuple[Floats, Floats]:
    """Alerts and their variance; some customers have more alerts than others, at all interim
    analyses."""
    rng, beside_h = schedule.rng(f"{arm} alerts"), schedule.profile.alert_repeat_h
    alerts_h = np.maximum(trials[:, -1:] / schedule.hours[-1] * share, 1e-12)
    level = rng.normal(1.0, np.sqrt(np.minimum(beside_h / alerts_h, 0.25)), (len(trials), 1))
    hits = _hits(rng, trials * np.maximum(level, 0.0), share, 0.0)[0]
    return hits, hits * (1 + beside_h * schedule.hours)


def _ratio_deviation(schedule: AnalysisSchedule, expected: Alerts) -> Floats:
    """The standard deviation of the predicted ratio at each interim analysis, as a share of it; for
    the effect that the judge assumes, each alert of the champion has others beside it."""
    assumed = 1 + schedule.profile.alert_repeat_h * schedule.hours
    found: Floats = np.sqrt(expected.prediction.ratio_variance(assumed))
    return found


def _drawn(schedule: AnalysisSchedule, spread: Floats) -> Floats:
    """The replay's own sampling error: one for each path."""
    drawn = schedule.rng("replay").normal(0.0, 1.0, (schedule.paths, 1))
    return drawn * float(spread.min())


def _hits(
    rng: np.random.Generator, trials: Floats, share: float, together: float
) -> tuple[Floats, Floats]:
    """Hits up to each interim analysis, and their variance: the sum of the squares of their events'
    sizes.

    Args:
        together: number of other hits in a hit's event.
    """
    expected = share * np.diff(trials, axis=1, prepend=0.0)
    if share > FEW_HITS:
        effect = (1 - share) * (1 + together)
        drawn = rng.normal(expected, np.sqrt(effect * expected)).cumsum(axis=1)
        return np.maximum(drawn, 0.0), effect * share * trials
    if together < ALONE:
        alone = rng.poisson(expected).cumsum(axis=1).astype(float)
        return alone, (1 - share) * alone
    events = rng.poisson(expected / together)
    drawn = rng.poisson(together * events).astype(float)
    squares = drawn + drawn * np.maximum(drawn - 1, 0) / np.maximum(events, 1)
    return drawn.cumsum(axis=1), squares.cumsum(axis=1)


@functools.lru_cache(maxsize=64)
def _table(error_share: float) -> tuple[Floats, Floats]:
    variances = np.concatenate([[0.0], np.geomspace(1e-3, 1e12, 600)])
    return variances, np.array([sequence_width(v, error_share=error_share) for v in variances])


def _widths(variances: Floats, error_share: float) -> Floats:
    """The judge's widths at these variances, interpolated in a table."""
    known, widths = _table(error_share)
    return np.interp(variances, known, widths)
