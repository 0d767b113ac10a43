"""What a rollout will take at the present traffic, step by step, and whether it can decide in time.

A challenger as good as the champion, and for each gate one with twice the harm that stops, are
played through a step by `courses`, against the very bounds that will judge them.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from mlplatform.rollouts.verdicts import courses
from mlplatform.rollouts.verdicts.courses import Alerts, Floats, LabelCourses, Looks, Sums
from mlplatform.rollouts.verdicts.judgement import Step
from mlplatform.rollouts.verdicts.speed import harmful_ratio
from mlplatform.rollouts.verdicts.statistics import sequence_width
from mlplatform.rollouts.verdicts.traffic_profile import TrafficProfile
from mlplatform.rollouts.verdicts.verdict import Errors

COURSES = 200
LOOKS = 96
SEED = 65
LONGEST = 8.0
"""Times the deadline: further ahead nothing is drawn."""
SHORTEST = 1e-4
HARM = 2.0
"""Times the limit: the bad challenger of a plan."""
DECIDES = 0.5
"""A step that passes fewer challengers as good as the champion than this can't decide."""
MOST_TELLING = 5_000
"""Positives and stopped requests of one course that is drawn: of more, this many are."""
SLICES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
SURE = 0.8
"""Of such challengers, those that a proposed change lets pass in time."""

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of the ramp, to be planned.

    Args:
        key: of model.yaml, for example rollout.canary[1].
        deadline_h: of event time.
        failure_share: the limit of the failure gate.
    """

    key: str
    name: str
    deadline_h: float
    failure_share: float
    step: Step

    @property
    def share(self) -> float | None:
        """Of customers (0-1); None in shadow."""
        return None if self.step.percent is None else self.step.percent / 100


@dataclass(frozen=True, slots=True)
class GatePlan:
    """What one gate of a step needs.

    Args:
        tolerance: None where the step does not ask.
        hours: median until it is HEALTHY for a challenger as good as the champion; None: not
            within `LONGEST` deadlines. 0 where the step does not ask.
        requests, customers, customer_days, positives: that the challenger's arm has by then.
        passes: chance that such a challenger has passed it at the deadline.
        stops: chance that one with `HARM` times the limit is stopped within it.
        exposed_customers, exposed_requests: that this one has answered by its end, on average.
        loss: of them, requests (for alerts, alerts) that go wrong.
    """

    gate: str
    tolerance: float | None
    limit: float
    hours: float | None
    requests: int
    customers: int
    customer_days: int
    positives: int | None
    passes: float
    stops: float
    exposed_customers: int
    exposed_requests: int
    loss: float


@dataclass(frozen=True, slots=True)
class StagePlan:
    """What a step takes.

    Args:
        hours: median until every gate is HEALTHY; None: not within `LONGEST` deadlines.
        late_hours: until `SURE` of the challengers as good as the champion have passed.
        passes: chance that such a challenger has passed at the deadline.
        decides: the gate, or the sample, that is shown last.
    """

    key: str
    name: str
    percent: float | None
    deadline_h: float
    hours: float | None
    late_hours: float | None
    passes: float
    decides: str
    gates: tuple[GatePlan, ...]


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What the labels of the shadow phase will show.

    Args:
        positives: of the shadow phase, expected.
        passes: chance that a version which finds as many positives as its champion is confirmed.
        stops: chance that one which misses `HARM` times the limit more is taken back.
        requests: in shadow, that would confirm with the chance `SURE`; None: no label says
            positive, or no number would, as decisions hide too much.
        hidden: requests of the shadow phase whose outcome the champion's decision hides; of
            them, `let_through` are known all the same.
        exploration: smallest share of `SLICES` that would confirm with the chance `SURE` at this
            sample; None: none would, or nothing is hidden.
    """

    tolerance: float
    positives: int
    passes: float
    stops: float
    requests: int | None
    hidden: int = 0
    let_through: int = 0
    exploration: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """How a step goes for challengers as good as the champion.

    Args:
        ended: hours until each of them has passed; endless: not within `LONGEST` deadlines.
        passes: chance that one has by the deadline.
    """

    ended: Floats
    passes: float

    @property
    def hours(self) -> float:
        """The median; endless where fewer pass."""
        return _median(self.ended)

    @property
    def late_hours(self) -> float:
        """Until `SURE` of them have passed."""
        return float(np.quantile(self.ended, SURE, method="higher"))


def progress(
    profile: TrafficProfile, stage: Stage, expected: Alerts | None, *, drawn: int = COURSES // 4
) -> Progress:
    """Of a step, when it is passed and how surely, without what each gate needs.

    Args:
        expected: of alerts; None: nothing is known of the challenger's, and gates on alerts are
            left out.
        drawn: challengers that are played.
    """
    looks = _looks(profile, stage, drawn)
    passed = [gate.passes(good=True) for gate in _gates(stage, looks, expected)]
    return _progress(stage, looks, [_sampled(profile, stage, looks), *passed])


def plan_stage(
    profile: TrafficProfile, stage: Stage, expected: Alerts | None, *, drawn: int = COURSES
) -> StagePlan:
    """What a step takes at this traffic, and what each of its gates needs."""
    looks = _looks(profile, stage, drawn)
    gates = _gates(stage, looks, expected)
    passed = {"sample": _sampled(profile, stage, looks)}
    passed |= {gate.name: gate.passes(good=True) for gate in gates}
    every = list(passed.values())
    hours = {name: _median(_first(flags, looks.hours)) for name, flags in passed.items()}
    going = _progress(stage, looks, every)
    return StagePlan(
        key=stage.key,
        name=stage.name,
        percent=stage.step.percent,
        deadline_h=stage.deadline_h,
        hours=_told(going.hours),
        late_hours=_told(going.late_hours),
        passes=going.passes,
        decides=max(hours, key=lambda name: hours[name]),
        gates=tuple(
            _gate_plan(stage, gate, looks, passed[gate.name], _all(every)) for gate in gates
        ),
    )


def _progress(stage: Stage, looks: Looks, passed: Sequence[Flags]) -> Progress:
    ended = _first(_all(passed), looks.hours)
    return Progress(ended, float((ended <= stage.deadline_h * (1 + 1e-9)).mean()))


@dataclass(frozen=True, slots=True)
class _Gate:
    """One gate's courses.

    Args:
        counts: sums of a challenger, good or bad, held to the tolerance or to the limit; several
            where the nearest expectation counts.
        loss: share of the challenger's requests that goes wrong where it is bad.
    """

    name: str
    tolerance: float | None
    limit: float
    errors: Errors
    counts: Callable[[bool, bool], tuple[Sums, ...]]
    loss: float
    absolute: bool = True
    two_sided: bool = False

    def passes(self, *, good: bool) -> Flags:
        """Where no more than the tolerance is left open."""
        if self.tolerance is None:
            shape = self.counts(good, False)[0].value.shape
            return np.ones(shape, dtype=bool)
        most = self.tolerance if self.absolute else 0.0
        return _any([self._open(sums) <= most for sums in self.counts(good, True)])

    def stops(self) -> Flags:
        """Where more than the limit is proven of the bad challenger."""
        most = self.limit if self.absolute else 0.0
        return _all([s.value - s.width(self.errors.stop) > most for s in self.counts(False, False)])

    def _open(self, sums: Sums) -> Floats:
        value = np.abs(sums.value) if self.two_sided else sums.value
        return value + sums.width(self.errors.missed)


def _gates(stage: Stage, looks: Looks, expected: Alerts | None) -> list[_Gate]:
    gates = [_failures(stage, looks)]
    if expected is not None:
        gates.append(_alert_gate(stage, looks, expected))
    if stage.share is None:
        if expected is not None and stage.step.predicted.replayed:
            gates.append(_disagreement(stage, looks, expected))
    elif looks.profile.latency_us:
        stop, tolerance = stage.step.stop, stage.step.tolerance
        gates += [
            _speed(stage, looks, 0.5, stop.latency_p50, tolerance.latency_p50),
            _speed(stage, looks, 0.99, stop.latency_p99, tolerance.latency_p99),
        ]
    return gates


def _failures(stage: Stage, looks: Looks) -> _Gate:
    more = HARM * stage.failure_share

    def counts(good: bool, _: bool) -> tuple[Sums, ...]:
        return (courses.failures(looks, more=0.0 if good else more),)

    step = stage.step
    return _Gate(
        "failures", step.tolerance.failures, stage.failure_share, step.errors, counts, more
    )


def _alert_gate(stage: Stage, looks: Looks, expected: Alerts) -> _Gate:
    step = stage.step
    more = HARM * step.stop.alerts

    def counts(good: bool, _: bool) -> tuple[Sums, ...]:
        return _alerts(looks, expected, 0.0 if good else more)

    halves = Errors(step.errors.stop / 2, step.errors.missed / 2)  # both sides are harm
    tolerance, limit = step.tolerance.alerts, step.stop.alerts
    loss = more * expected.own
    return _Gate("alerts", tolerance, limit, halves, counts, loss, two_sided=True)


def _disagreement(stage: Stage, looks: Looks, expected: Alerts) -> _Gate:
    step = stage.step
    more = HARM * step.stop.disagreement

    def counts(good: bool, _: bool) -> tuple[Sums, ...]:
        return (courses.disagreement(looks, expected, more=0.0 if good else more),)

    tolerance, limit = step.tolerance.disagreement, step.stop.disagreement
    return _Gate("disagreement", tolerance, limit, step.errors, counts, more * expected.either)


def _alerts(looks: Looks, expected: Alerts, more: float) -> tuple[Sums, ...]:
    arms = courses.alert_pairs if looks.share is None else courses.alert_arms
    told = courses.alerts_told(looks, expected, more=more)
    return (arms(looks, expected, more=more), *([] if told is None else [told]))


def _speed(
    stage: Stage, looks: Looks, quantile: float, limit: float, tolerance: float | None
) -> _Gate:
    profile = looks.profile
    usual_us = max(profile.quantile_us(quantile), 1.0)
    immaterial_us = stage.step.immaterial_us
    limit = harmful_ratio(limit, usual_us, immaterial_us)
    tolerance = tolerance and harmful_ratio(tolerance, usual_us, immaterial_us)
    slow = 1 + HARM * (limit - 1)
    late = profile.slower(usual_us / slow) - (1 - quantile)

    def counts(good: bool, passing: bool) -> tuple[Sums, ...]:
        ratio = (tolerance or limit) if passing else limit
        return (courses.latency(looks, quantile, ratio=ratio, slower=1.0 if good else slow),)

    name = f"latency_p{100 * quantile:g}"
    return _Gate(name, tolerance, limit, stage.step.errors, counts, late, absolute=False)


def _looks(profile: TrafficProfile, stage: Stage, drawn: int) -> Looks:
    before = np.geomspace(SHORTEST * stage.deadline_h, stage.deadline_h, LOOKS)
    after = np.geomspace(stage.deadline_h, LONGEST * stage.deadline_h, LOOKS // 4)[1:]
    return Looks(profile, np.concatenate([before, after]), stage.share, drawn, SEED)


def _sampled(profile: TrafficProfile, stage: Stage, looks: Looks) -> Flags:
    """Where the arm has had the customers and requests that the step wants at least."""
    units = np.array([profile.seen(h, stage.share or 1.0) for h in looks.hours])
    requests, _ = looks.trials()
    return (units >= stage.step.units) & (requests >= stage.step.requests)


def _gate_plan(stage: Stage, gate: _Gate, looks: Looks, passed: Flags, every: Flags) -> GatePlan:
    profile, share = looks.profile, stage.share or 1.0
    in_time = looks.hours <= stage.deadline_h * (1 + 1e-9)
    reached = _first(passed, looks.hours)
    hours = 0.0 if gate.tolerance is None else _told(_median(reached))
    needed = hours or 0.0
    requests = profile.requests_h * needed * share
    stopped = _first(gate.stops()[:, in_time], looks.hours)
    # a bad challenger may pass as well: then the next step goes on with it
    wrongly = _first((gate.passes(good=False) & every)[:, in_time], looks.hours)
    ended = np.minimum(np.minimum(stopped, wrongly), stage.deadline_h)
    answered = 0.0 if stage.share is None else profile.requests_h * share * float(ended.mean())
    met = [profile.seen(h, share) for h in ended] if stage.share is not None else [0.0]
    return GatePlan(
        gate=gate.name,
        tolerance=gate.tolerance,
        limit=gate.limit,
        hours=hours,
        requests=round(requests),
        customers=round(profile.seen(needed, share)),
        customer_days=round(profile.customer_days(needed, share)),
        positives=None if math.isnan(profile.positives) else round(requests * profile.positives),
        passes=float((reached <= looks.hours[in_time][-1]).mean()),
        stops=float((np.isfinite(stopped) & (stopped <= wrongly)).mean()),
        exposed_customers=round(float(np.mean(met))),
        exposed_requests=round(answered),
        loss=answered * gate.loss,
    )


def plan_confirmation(
    profile: TrafficProfile,
    shadow: StagePlan,
    *,
    limit: float,
    tolerance: float,
    errors: Errors,
    alone: float,
) -> Confirmation | None:
    """What the labels of the shadow phase will say of recall; None: labels say nothing yet.

    Args:
        limit, tolerance: positives found less than the champion, as a share of all positives.
        alone: share of the positives that one version alone finds, at equal recall.
    """
    if not profile.positives > 0 or shadow.hours is None:
        return None
    if profile.hidden is not None:
        held = LabelCourses(
            profile.positives, profile.hidden, limit, tolerance, HARM * limit, errors, alone, SEED
        )
        return _partly_seen(held, round(profile.requests_h * shadow.hours))
    positives = round(profile.requests_h * shadow.hours * profile.positives)

    def chance(count: int, worse: float, most: float, error: float, sign: int) -> float:
        variance = max(alone, worse) * count
        width = sequence_width(variance, error_share=error)
        spread = math.sqrt(max(variance - count * worse**2, 1e-9))
        return _normal((most * count - sign * width - worse * count) / spread)

    def passing(count: int) -> float:
        return chance(count, 0.0, tolerance, errors.missed, 1) if count else 0.0

    counts = (round(x) for x in np.geomspace(10, 1e6, 160))
    wanted: Final = next((n for n in counts if passing(n) >= SURE), None)
    return Confirmation(
        tolerance=tolerance,
        positives=positives,
        passes=passing(positives),
        stops=1 - chance(positives, HARM * limit, limit, errors.stop, -1) if positives else 0.0,
        requests=None if wanted is None else math.ceil(wanted / profile.positives),
    )


def _partly_seen(held: LabelCourses, requests: int) -> Confirmation:
    """What the labels of `requests` requests will show, by the judge's own bounds."""
    hidden = held.hidden
    most = round(MOST_TELLING / (held.positives + hidden.share))
    counts = [round(x) for x in np.geomspace(10 / held.positives, most, 40) if x <= most]
    place = bisect.bisect_left(counts, SURE, key=lambda n: held.passes(n, COURSES // 4))
    passes = held.passes(min(requests, most), COURSES // 2)
    slices = (s for s in SLICES if s > hidden.drawn * hidden.chance)
    wider = (replace(held, hidden=replace(hidden, drawn=1.0, chance=s)) for s in slices)
    would = (h.hidden.chance for h in wider if h.passes(min(requests, most), COURSES // 4) >= SURE)
    return Confirmation(
        tolerance=held.tolerance,
        positives=round(requests * held.positives),
        passes=passes,
        stops=held.stops(min(requests, most), COURSES // 2),
        requests=counts[place] if place < len(counts) else None,
        hidden=round(requests * hidden.share),
        let_through=round(requests * hidden.share * hidden.drawn * hidden.chance),
        exploration=None if passes >= SURE else next(would, None),
    )


def _all(flags: Sequence[Flags]) -> Flags:
    return np.asarray(np.logical_and.reduce(flags), dtype=np.bool_)


def _any(flags: Sequence[Flags]) -> Flags:
    return np.asarray(np.logical_or.reduce(flags), dtype=np.bool_)


def _normal(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _first(flags: Flags, hours: Floats) -> Floats:
    """Hours of the first look of each course at which it is so; endless where there is none."""
    return np.where(flags.any(axis=1), hours[flags.argmax(axis=1)], np.inf)


def _median(hours: Floats) -> float:
    return float(np.quantile(hours, 0.5, method="higher"))


def _told(hours: float) -> float | None:
    return hours if math.isfinite(hours) else None
