"""The traffic of a model in the last days, as the few numbers that a plan needs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mlplatform.rollouts.verdicts.aggregates import OUTAGE_SLICE_MS, outage_bits
from mlplatform.rollouts.verdicts.facts import Flags, Integers
from mlplatform.rollouts.verdicts.statistics import first_of_each
from mlplatform.runtime.units import DAY_MS, HOUR_MS

Floats = npt.NDArray[np.float64]

MOST_CUSTOMERS = 100_000
"""Most customers that a profile counts one by one; if there are more, a random part represents
all."""
BINS_PER_OCTAVE = 64
OCTAVES = 36
QUANTILES = (0.5, 0.99)
ACTIVITY_BINS = 24


@dataclass(frozen=True, slots=True)
class HiddenRequests:
    """Requests whose outcome the champion's own decision hides, including those that are let
    through.

    Args:
        share: share (0-1) of all requests.
        positive: share of them that the champion's calibrated scores expect to be positive.
        drawn: share of them that may be let through to learn about them.
        chance: probability that one of those is let through.
    """

    share: float
    positive: float
    drawn: float = 0.0
    chance: float = 0.0

    @property
    def known_positive(self) -> float:
        """Share of all requests that are let through and turn out to be positive."""
        return self.share * self.drawn * self.chance * self.positive


@dataclass(frozen=True, slots=True)
class TrafficProfile:
    """A model's traffic, by event time.

    Args:
        hours: hours of event time that were read.
        requests: number of requests in them.
        busy_hours: hours of the whole period that had any request; an estimate if only a part was
            read.
        requests_h: requests per hour.
        customers: groups of similar customers: (number of customers, requests per hour of each).
        repeat_h: other requests per hour by the customer of a request that is taken at random.
        failed: share (0-1) of requests that the champion failed to answer in time.
        failed_together: number of other failures in a failure's outage, on average, if one arm had
            all of the traffic; chance coincidences are left out.
        failed_apart: share of failures among requests after `CALM_TRIALS` good ones. An outage of
            any length counts as one failure.
        alerts: share (0-1) of scored answers with an alert.
        alert_repeat_h: other alerts per hour by the customer of an alert; chance coincidences are
            left out.
        latency: share of answers slower than `latency_us` at the same position.
        slow_together: as `failed_together`, for answers above each of `QUANTILES`.
        positives: share (0-1) of requests whose labels say positive; NaN if no label has come.
        speed: hours of event time per hour of wall time; 1 on a live platform.
        hidden: requests with hidden outcomes; None if no decision of the champion hid one.
    """

    hours: float
    requests: int
    busy_hours: int
    requests_h: float
    customers: tuple[tuple[float, float], ...]
    repeat_h: float
    failed: float
    failed_together: float
    alerts: float
    alert_repeat_h: float
    latency_us: tuple[float, ...]
    latency: tuple[float, ...]
    slow_together: tuple[float, ...]
    positives: float
    speed: float = 1.0
    hidden: HiddenRequests | None = None
    failed_apart: float = 0.0

    def customers_in(self, hours: float, share: float = 1.0) -> float:
        """Number of customers expected to send a request within `hours`, among the share `share` of
        them."""
        return share * sum(n * -math.expm1(-rate * hours) for n, rate in self.customers)

    def customer_days(self, hours: float, share: float = 1.0) -> float:
        """Pairs of a customer and a day with a request of theirs."""
        days, rest = divmod(hours, 24.0)
        return days * self.customers_in(24.0, share) + self.customers_in(rest, share)

    def quantile_us(self, quantile: float) -> float:
        """The latency in microseconds that the share 1 - quantile of the answers exceeds."""
        return float(np.interp(quantile, 1 - np.array(self.latency), self.latency_us))

    def slower(self, than_us: float) -> float:
        """Share (0-1) of answers that take longer."""
        return float(np.interp(than_us, self.latency_us, self.latency))


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """Decisions of a stretch of event time; one array element per request.

    Args:
        counted: flags of the requests assigned to the champion; only these count for failures,
            alerts and latency. None means all.
        failed: not answered within the time that a challenger gets.
        latency_us: microseconds; -1 if not recorded.
        hours: length of the stretch, in hours of event time.
        positives: number of positive labels that arrived in it; None if no label arrived.
        hiding: scores of the champion's answers whose decision hides the outcome; None means no
            such answer.
    """

    event_ms: Integers
    recorded_ms: Integers
    unit: Integers
    failed: Flags
    scored: Flags
    alert: Flags
    latency_us: Integers
    hours: float
    positives: int | None = None
    counted: Flags | None = None
    hiding: Floats | None = None


@dataclass(slots=True)
class _Pieces:
    """Hits by stretch of wall time; those of one stretch may be one event."""

    hits: float = 0.0
    trials: float = 0.0
    squares: float = 0.0
    mixed: float = 0.0
    trial_squares: float = 0.0

    def add(self, pieces: Integers, hits: Flags) -> None:
        n = np.unique(pieces, return_counts=True)
        a = np.bincount(np.searchsorted(n[0], pieces[hits]), minlength=len(n[0]))
        trials = n[1].astype(np.float64)
        self.hits += float(a.sum())
        self.trials += float(trials.sum())
        self.squares += float((a.astype(np.float64) ** 2).sum())
        self.mixed += float((a * trials).sum())
        self.trial_squares += float((trials**2).sum())

    @property
    def share(self) -> float:
        return self.hits / self.trials if self.trials else math.nan

    @property
    def excess_variance(self) -> float:
        """The variance of the hits between the stretches beyond that of chance, over the variance
        of chance."""
        p = self.share
        if not 0 < p < 1:
            return 0.0
        varied = self.squares - 2 * p * self.mixed + p**2 * self.trial_squares
        return max(varied / (self.hits * (1 - p)) - 1, 0.0)


@dataclass(slots=True)
class ProfileBuilder:
    """Adds slices up to a profile, in memory that does not grow with them.

    Args:
        part: share (0-1) of the period's time that the slices cover.
        speed: hours of event time per hour of wall time.
        days: days of event time from the first slice to the last.
    """

    days: float
    part: float = 1.0
    speed: float = 1.0
    _hours: float = 0.0
    _requests: int = 0
    _busy_h: float = 0.0
    _busy: set[int] = field(default_factory=set)
    _kept: int = 1
    _units: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    _counts: Integers = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64))
    _failures: _Pieces = field(default_factory=_Pieces)
    _apart: float = 0.0
    _calm: float = 0.0
    _slow: tuple[_Pieces, ...] = field(default_factory=lambda: tuple(_Pieces() for _ in QUANTILES))
    _scored: int = 0
    _alerts: int = 0
    _bins: Integers = field(
        default_factory=lambda: np.zeros(BINS_PER_OCTAVE * OCTAVES, dtype=np.int64)
    )
    _positives: int | None = None
    _hidden: int = 0
    _hidden_score: float = 0.0

    def add(self, seen: Slice) -> None:
        """Count a slice; slices must come in the order of event time."""
        if seen.positives is not None:
            self._positives = (self._positives or 0) + seen.positives
        if not len(seen.unit) and not self._requests:
            return  # before the first request
        self._hours += seen.hours
        if not len(seen.unit):
            return
        self._requests += len(seen.unit)
        self._busy_h += seen.hours
        self._busy.update(np.unique(seen.event_ms // HOUR_MS).tolist())
        self._add_customers(seen)
        own = np.ones(len(seen.unit), dtype=bool) if seen.counted is None else seen.counted
        if not own.any():
            return
        pieces = seen.recorded_ms[own] // self._piece_ms()
        self._failures.add(pieces, seen.failed[own])
        self._add_events(seen.recorded_ms[own], seen.failed[own])
        self._scored += int(seen.scored[own].sum())
        self._alerts += int((seen.alert & seen.scored)[own].sum())
        if seen.hiding is not None:
            self._hidden += len(seen.hiding)
            self._hidden_score += float(seen.hiding.sum())
        self._add_latency(pieces, seen.latency_us[own])

    def profile(self) -> TrafficProfile | None:
        """The profile of the slices so far; None if the champion had no request."""
        if not self._failures.trials or not self._hours:
            return None
        requests_h = self._requests / self._hours
        customers, repeat_h, alert_repeat_h = self._activity(requests_h)
        timed = int(self._bins.sum())
        above = 1 - np.cumsum(self._bins) / max(timed, 1)
        edges = 2 ** (np.arange(1, len(self._bins) + 1) / BINS_PER_OCTAVE)
        used = np.flatnonzero(self._bins)
        kept = slice(max(used[0] - 1, 0), used[-1] + 1) if timed else slice(0, 0)
        return TrafficProfile(
            hours=self._hours,
            requests=self._requests,
            busy_hours=len(self._busy) if self.part == 1 else round(self._busy_h / self.part),
            requests_h=requests_h,
            customers=customers,
            repeat_h=repeat_h,
            failed=self._failures.share,
            failed_together=self._failures.excess_variance,
            alerts=self._alerts / self._scored if self._scored else math.nan,
            alert_repeat_h=alert_repeat_h,
            latency_us=tuple(edges[kept].tolist()),
            latency=tuple(above[kept].tolist()),
            slow_together=tuple(p.excess_variance for p in self._slow),
            positives=math.nan if self._positives is None else self._positives / self._requests,
            speed=self.speed,
            hidden=self._hidden_requests(),
            failed_apart=self._apart / self._calm if self._calm else self._failures.share,
        )

    def _hidden_requests(self) -> HiddenRequests | None:
        if not self._hidden or not self._scored:
            return None
        return HiddenRequests(self._hidden / self._scored, self._hidden_score / self._hidden)

    def _piece_ms(self) -> int:
        span_ms = self.days * DAY_MS / self.speed
        return OUTAGE_SLICE_MS << outage_bits(int(span_ms) // OUTAGE_SLICE_MS + 1)

    def _add_events(self, recorded_ms: Integers, failed: Flags) -> None:
        in_time = failed[np.argsort(recorded_ms, kind="stable")]
        events = first_of_each(np.stack((in_time, np.ones_like(in_time)), axis=1).astype(np.int64))
        self._apart += float(events.hits)
        self._calm += float(events.trials)

    def _add_latency(self, pieces: Integers, latency_us: Integers) -> None:
        timed = latency_us > 0
        if not timed.any():
            return
        octaves = np.log2(latency_us[timed])
        places = np.clip((octaves * BINS_PER_OCTAVE).astype(np.int64), 0, len(self._bins) - 1)
        self._bins += np.bincount(places, minlength=len(self._bins))
        below = np.cumsum(self._bins) / self._bins.sum()
        for quantile, slow in zip(QUANTILES, self._slow, strict=True):
            slow.add(pieces[timed], places > np.searchsorted(below, quantile))

    def _add_customers(self, seen: Slice) -> None:
        kept = _spread(seen.unit) % np.uint64(self._kept) == 0
        units, alerts = seen.unit[kept], (seen.alert & seen.scored)[kept]
        every = np.concatenate([self._units, units])
        found, place = np.unique(every, return_inverse=True)
        counts = np.zeros((len(found), 2), dtype=np.int64)
        np.add.at(counts, place[: len(self._units)], self._counts)
        np.add.at(counts, place[len(self._units) :], np.stack((np.ones_like(units), alerts), 1))
        while len(found) > MOST_CUSTOMERS:
            self._kept *= 2
            some = _spread(found) % np.uint64(self._kept) == 0
            found, counts = found[some], counts[some]
        self._units, self._counts = found, counts

    def _activity(self, requests_h: float) -> tuple[tuple[tuple[float, float], ...], float, float]:
        """Groups of customers, and how often the customer of a request, and of an alert, comes
        again."""
        n, alerts = self._counts.astype(np.float64).T
        again_h = float((n * (n - 1)).sum() / n.sum()) / self._hours
        once, twice = float((n == 1).sum()), float((n == 2).sum())
        unseen = once * (once - 1) / (2 * (twice + 1)) if self.part < 1 else 0.0
        people = (len(n) + unseen) * self._kept
        edges = np.unique(np.geomspace(1, len(n) + 1, ACTIVITY_BINS).astype(int)) - 1
        groups = np.split(-np.sort(-n), edges[1:-1])  # each of the busiest is its own group
        total = float(n.sum())
        customers = tuple(
            (people * len(g) / len(n), requests_h * float(g.mean()) * len(n) / (total * people))
            for g in groups
        )
        p = float(alerts.sum()) / total
        if not p:
            return customers, again_h, 0.0
        together = float((alerts * (alerts - 1)).sum() / alerts.sum()) / self._hours
        return customers, again_h, max(together - p * again_h, 0.0)


def _spread(units: Integers) -> npt.NDArray[np.uint64]:
    """Pseudo-random numbers, one for each customer, so that any half of them is as good as another.

    Source: the finalizer of SplitMix64, Steele, Lea and Flood (2014).
    """
    x = units.astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
