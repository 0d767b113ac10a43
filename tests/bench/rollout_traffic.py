"""Traffic of both arms in a world, and what replay said before.

Payments of heavy-tailed customers, alerts clustered by customer, failures in outages, two arms that
differ as the world says. A stream is drawn only as far as somebody looks at it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tests.bench.rollout_worlds import (
    A_DAY,
    BASE_US,
    FIFTIETH,
    ROW_US,
    SEGMENTS,
    TENTH,
    World,
)

from mlplatform.learning.training.retrain import REPLAYED_ROWS
from mlplatform.learning.validation.statistics import flip_design_effect, paired_design_effect
from mlplatform.model.folders import load_definition
from mlplatform.rollouts.passes.observe import SEGMENT_ALERTS
from mlplatform.rollouts.verdicts.traffic import Traffic
from mlplatform.rollouts.verdicts.verdict import Prediction

_FRAUD: Final = load_definition("fraud")
REPLAYED: Final = A_DAY * (_FRAUD.training.holdout_days + _FRAUD.label.maturity_days)
"""Payments that a retrain replays by both versions: of the days that it does not fit."""
LATENCY_SIGMA = 0.3
WITHIN_US: Final = 24_000.0
"""How long a challenger of the fraud model is waited for."""
DAY_TO_DAY = 0.08
SECONDS = 86_400.0
PLACES: Final = 16
"""Of a customer on average, among those of whom payments are drawn: the least active have none."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True)
class Customers:
    """Activity (sums to 1) and share of alerts of each customer.

    Args:
        paying: customers as often as they pay, of whom a payment's is drawn.
    """

    activity: Floats
    alert_share: Floats
    paying: Integers


def drawn_customers(rng: np.random.Generator, world: World) -> Customers:
    activity = rng.lognormal(0.0, world.activity, world.customers)
    activity /= activity.sum()
    alike = (1 - world.icc) / world.icc
    share = rng.beta(world.alert_share * alike, (1 - world.alert_share) * alike, world.customers)
    places = (np.arange(PLACES * world.customers) + 0.5) / (PLACES * world.customers)
    paying = np.searchsorted(np.cumsum(activity), places).clip(max=world.customers - 1)
    activity = np.bincount(paying, minlength=world.customers) / len(paying)
    share = share * world.alert_share / (activity * share).sum()
    return Customers(activity, np.minimum(share, 1.0), paying)


@dataclasses.dataclass(frozen=True, slots=True)
class Payments:
    """Payments in the order of time, with what either arm makes of each (champion, challenger).

    Args:
        scores: an alert is a score above 1.
        latency_us: of the challenger in shadow, that of the call.
        call: of the copy, within its look.
    """

    at_s: Floats
    unit: Integers
    failed: tuple[Flags, Flags]
    scores: tuple[Floats, Floats]
    latency_us: tuple[Floats, Floats]
    call: Integers
    calls: Integers


class Stream:
    """Traffic of one step, drawn look by look.

    Args:
        hours: how long it may become.
        percent: of the customers, that are the challenger's; None: shadow.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        world: World,
        hours: float,
        percent: float | None,
        customers: Customers,
    ) -> None:
        self._rng, self._world, self._customers = rng, world, customers
        self.percent, self._until_s, self._calls = percent, 0.0, 0
        self._level = rng.normal(1.0, DAY_TO_DAY, int(hours / 24) + 1).clip(0.5, 1.5)
        self._outages_s = tuple(_outages(rng, world, 3600 * hours) for _ in range(2))
        part = 0.0 if percent is None else percent / 100
        self._mine = rng.random(world.customers) < part
        weight, share = customers.activity[::TENTH], customers.alert_share[::TENTH]
        self._share_of_tenth = float(weight @ share / weight.sum())

    def until(self, hour: float) -> Payments:
        """The payments from the last interim analysis on, up to that hour."""
        rng, world, start_s, until_s = self._rng, self._world, self._until_s, 3600 * hour
        self._until_s = until_s
        count = rng.poisson(world.payments_a_day * (until_s - start_s) / SECONDS)
        at_s = np.sort(rng.uniform(start_s, until_s, count))
        paying = self._customers.paying
        unit = paying[rng.integers(0, len(paying), count)]
        sizes = _call_sizes(rng, world, count) if self.percent is None else np.zeros(0, np.int64)
        call = np.repeat(np.arange(len(sizes)), sizes) if len(sizes) else np.zeros(0, np.int64)
        self._calls += len(sizes)
        return Payments(
            at_s=at_s,
            unit=unit,
            failed=self._failures(at_s),
            scores=self._scores(at_s, unit),
            latency_us=self._latencies(count, sizes),
            call=call + self._calls - len(sizes),
            calls=sizes,
        )

    def traffic(self, found: Payments) -> Traffic:
        """These payments as records of both arms."""
        champion, challenger = (scores > 1.0 for scores in found.scores)
        if self.percent is None:
            return _shadow(found, (champion, challenger), self._swapped(champion & challenger),
                           segmented=self._world.segmented)  # fmt: skip
        mine = self._mine[found.unit]
        failed, latency_us = (
            np.where(mine, pair[1], pair[0]) for pair in (found.failed, found.latency_us)
        )
        return _records(
            at_s=found.at_s,
            unit=found.unit,
            challenger=mine,
            failed=failed,
            alert=np.where(mine, challenger, champion),
            other_alert=None,
            latency_us=latency_us,
            segmented=self._world.segmented,
        )

    def scores(self, found: Payments) -> tuple[Floats, Floats]:
        """The challenger's scores, and the champion's."""
        if self.percent is None:
            return found.scores[1], found.scores[0]
        mine = self._mine[found.unit]
        return found.scores[1][mine], found.scores[0][~mine]

    def _swapped(self, both: Flags) -> Flags:
        share = self._world.swapped
        return both & (self._rng.random(len(both)) < share) if share else both & False

    def _failures(self, at_s: Floats) -> tuple[Flags, Flags]:
        rng, world, found = self._rng, self._world, []
        for outages_s in self._outages_s:
            failed = np.zeros(len(at_s), dtype=bool)
            if not world.outage_s:
                failed = rng.random(len(at_s)) < world.failing
            for first, last in np.searchsorted(at_s, outages_s).tolist():
                failed[first:last] = True
            found.append(failed)
        more = world.more_failing + (world.late if self.percent is not None else 0.0)
        if more:
            found[1] |= rng.random(len(at_s)) < more
        return found[0], found[1]

    def _scores(self, at_s: Floats, unit: Integers) -> tuple[Floats, Floats]:
        rng, world, count = self._rng, self._world, len(at_s)
        share = self._customers.alert_share[unit] * self._level[(at_s // SECONDS).astype(int)]
        chance = 1.0 - rng.random((2, count))
        champion = share / chance[0]
        alike = np.where(rng.random(count) < world.redrawn, share / chance[1], champion)
        times = world.alerts + world.more_alerts / world.alert_share
        challenger = _times(rng, alike, share, times)
        if not (world.inverted or world.in_segment != 1.0):
            return champion, challenger
        tenth = unit % TENTH == 0
        if world.inverted:
            upside_down = (champion <= 1.0) & (rng.random(count) < self._share_of_tenth)
            challenger[tenth] = np.where(upside_down, 2.0, 0.5)[tenth]
        else:
            challenger[tenth] = _times(rng, alike, share, world.in_segment)[tenth]
        return champion, challenger

    def _latencies(self, count: int, sizes: Integers) -> tuple[Floats, Floats]:
        rng, world = self._rng, self._world
        theirs_us = (BASE_US + ROW_US) * np.exp(LATENCY_SIGMA * rng.standard_normal(count))
        rows = sizes if len(sizes) else np.ones(count)
        own_us = (BASE_US + world.row_us * rows) * world.slower
        own_us = own_us * np.exp(LATENCY_SIGMA * rng.standard_normal(len(rows)))
        if world.tail != 1.0:
            own_us = _with_tail(own_us, world)
        return theirs_us, np.repeat(own_us, sizes) if len(sizes) else own_us


def _call_sizes(rng: np.random.Generator, world: World, count: int) -> Integers:
    if not world.batched:
        return np.ones(count, dtype=np.int64)
    sizes = 1 + rng.poisson(world.batched, count)
    until = np.cumsum(sizes)
    sizes = sizes[: int(np.searchsorted(until, count)) + 1].astype(np.int64)
    if len(sizes):
        sizes[-1] -= sizes.sum() - count
    return sizes


def _times(rng: np.random.Generator, scores: Floats, share: Floats, times: float) -> Floats:
    """Scores of a model that raises so many times the alerts."""
    if times == 1.0:
        return scores.copy()
    chance = 1.0 - rng.random(len(scores))
    if times < 1.0:
        return np.where(chance <= times, scores, np.minimum(scores, 1.0))
    return np.maximum(scores, share * (times - 1) / chance)


def _outages(rng: np.random.Generator, world: World, seconds: float) -> Floats:
    """First and last second of each."""
    if not world.outage_s:
        return np.zeros((0, 2))
    number = rng.poisson(world.failing * (seconds + world.outage_s) / world.outage_s)
    start_s = rng.uniform(-world.outage_s, seconds, number)
    return np.stack((start_s, start_s + world.outage_s), axis=1)


def _with_tail(took_us: Floats, world: World) -> Floats:
    """The same up to the 95th percentile, and steeper from there on."""
    knee, top = (
        (BASE_US + world.row_us) * world.slower * math.exp(LATENCY_SIGMA * z)
        for z in (1.6449, 2.3263)
    )
    steeper = (world.tail * top - knee) / (top - knee)
    return np.asarray(np.where(took_us > knee, knee + (took_us - knee) * steeper, took_us))


def drawn_traffic(
    rng: np.random.Generator,
    world: World,
    days: float,
    percent: float | None,
    customers: Customers,
) -> Traffic:
    """All of a step's traffic at once."""
    stream = Stream(rng, world, 24 * days, percent, customers)
    return stream.traffic(stream.until(24 * days))


def drawn_prediction(
    rng: np.random.Generator, world: World, customers: Customers
) -> tuple[Prediction, dict[str, Prediction]]:
    """What replay said: of the model as it was meant, with as many alerts as the champion's, or
    as it is where that was foretold; and of its segments."""
    meant = dataclasses.replace(
        world, more_failing=0.0, payments_a_day=A_DAY, batched=0.0, inverted=False, in_segment=1.0,
        redrawn=min(world.redrawn, 0.2), swapped=0.0,
    )  # fmt: skip
    if not world.foretold:
        meant = dataclasses.replace(meant, alerts=1.0, more_alerts=0.0)
    replayed = REPLAYED_ROWS if world.is_busy else REPLAYED
    traffic = drawn_traffic(rng, meant, replayed / A_DAY, None, customers)
    mine = traffic.challenger
    own, other, unit = traffic.alert[mine], traffic.other_alert[mine], traffic.unit[mine]
    of_segments = {}
    for number, segment in enumerate(SEGMENTS.groups if world.segmented else ()):
        inside = traffic.segments[mine] >> number & 1 > 0
        if (own | other)[inside].sum() >= SEGMENT_ALERTS:
            of_segments[segment.name] = _prediction(own[inside], other[inside], unit[inside])
    return _prediction(own, other, unit), of_segments


def _prediction(own: Flags, other: Flags, unit: Integers) -> Prediction:
    either, both = int((own | other).sum()), int((own & other).sum())
    ratio, share = float(own.sum() / other.sum()), float(own.mean())
    effects = (
        paired_design_effect(own, other, unit),
        flip_design_effect(own != other, own | other, unit),
    )
    alone = (either - both) / either  # the two alerts are told apart, and replay saw no swap
    return Prediction(ratio, alone, share, True, len(own), *effects, alone=alone)


def true_prediction(world: World, customers: Customers) -> Prediction:
    """The same without the noise of a sample, of traffic at its usual level and no failures."""
    s, weight = customers.alert_share, customers.activity
    times = world.alerts + world.more_alerts / world.alert_share
    without = 1 - np.minimum(s * max(times - 1, 0.0), 1.0)
    alike = 1 - world.redrawn + world.redrawn * s
    own = float(weight @ (1 - (1 - s) * without)) * min(times, 1.0)
    both = float(weight @ (s * (1 - (1 - alike) * without))) * min(times, 1.0)
    other = float(weight @ s)
    either = own + other - both
    alone = (either - both) / either
    return Prediction(own / other, alone, own, alone=alone)


def _shadow(
    found: Payments, alert: tuple[Flags, Flags], swapped: Flags, *, segmented: bool
) -> Traffic:
    """Each decision of the champion, followed by its copy."""

    def both(pair: tuple[Any, Any]) -> npt.NDArray[Any]:
        rows = np.empty(2 * len(found.at_s), dtype=pair[0].dtype)
        rows[0::2], rows[1::2] = pair
        return rows

    nobody = np.zeros(len(found.at_s), dtype=bool)
    compared = ~found.failed[0] & ~found.failed[1]
    rows = found.calls[found.call - found.call[:1]]
    late = ~found.failed[1] & (found.latency_us[1] > 2 * WITHIN_US * rows)
    return _records(
        at_s=both((found.at_s, found.at_s)),
        unit=both((found.unit, found.unit)),
        challenger=both((nobody, ~nobody)),
        failed=both(found.failed),
        alert=both(alert),
        other_alert=both((nobody, alert[0])),
        swapped=both((nobody, swapped)),
        latency_us=both(found.latency_us),
        paired=both((nobody, compared)),
        late=both((nobody, late)),
        call=both((np.full(len(found.call), -1), found.call)),
        segmented=segmented,
    )


def _records(
    *,
    at_s: Floats,
    unit: Integers,
    challenger: Flags,
    failed: Flags,
    alert: Flags,
    other_alert: Flags | None,
    swapped: Flags | None = None,
    latency_us: Floats,
    segmented: bool,
    paired: Flags | None = None,
    late: Flags | None = None,
    call: Integers | None = None,
) -> Traffic:
    nothing, at_ms = np.zeros(len(unit), dtype=bool), (at_s * 1000).astype(np.int64)
    paired = nothing if paired is None else paired
    other_alert = nothing if other_alert is None else other_alert & paired
    return Traffic(
        event_ms=at_ms,
        recorded_ms=at_ms,
        unit=unit,
        challenger=challenger,
        failed=failed,
        excused=nothing,
        scored=~failed,
        alert=alert & ~failed,
        paired=paired,
        flipped=paired & ((alert != other_alert) | (nothing if swapped is None else swapped)),
        other_alert=other_alert,
        late=nothing if late is None else late,
        latency_us=latency_us.astype(np.int64),
        call=np.full(len(unit), -1) if call is None else call,
        segments=_segments(at_ms, unit) if segmented else np.zeros(len(unit), dtype=np.int64),
    )


def _segments(at_ms: Integers, unit: Integers) -> Integers:
    day, hour = at_ms // 86_400_000, at_ms % 86_400_000 // 3_600_000
    inside = (unit % TENTH == 0, unit % FIFTIETH == 1, day % 7 >= 5, hour <= 6)
    return np.stack([flags.astype(np.int64) << n for n, flags in enumerate(inside)]).sum(axis=0)


def first_records(traffic: Traffic, count: int) -> Traffic:
    names = [
        f.name for f in dataclasses.fields(traffic) if f.name not in ("dropped", "uncopied_ms")
    ]
    return dataclasses.replace(traffic, **{n: getattr(traffic, n)[:count] for n in names})
