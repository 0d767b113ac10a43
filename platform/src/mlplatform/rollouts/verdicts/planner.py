"""The time that a rollout takes at the present traffic, step by step, and whether it can decide.

A challenger as good as the champion, and for each gate one with twice the harm that stops, are
played through a step by `simulated_paths`, against the very bounds that will judge them.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import special

from mlplatform.rollouts.verdicts import simulated_paths
from mlplatform.rollouts.verdicts.comparison import BY_EVENTS
from mlplatform.rollouts.verdicts.judgement import StepPolicy
from mlplatform.rollouts.verdicts.simulated_labels import LabelPaths
from mlplatform.rollouts.verdicts.simulated_paths import Alerts, AnalysisSchedule, Floats, Sums
from mlplatform.rollouts.verdicts.speed import harmful_ratio
from mlplatform.rollouts.verdicts.statistics import sequence_width
from mlplatform.rollouts.verdicts.traffic_profile import TrafficProfile
from mlplatform.rollouts.verdicts.verdict import Errors

COURSES = 200
ANALYSES = 96
SEED = 65
LONGEST = 8.0
"""Horizon of the simulation, in multiples of a step's deadline."""
SHORTEST = 1e-4
HARM = 2.0
"""Harm of a plan's bad challenger, in multiples of the limit."""
DECIDES = 0.5
"""Least chance of a step to pass a challenger as good as the champion; else it can't decide."""
MOST_TELLING = 5_000
"""Most positives and stopped requests of a path; if there are more, this many are drawn."""
SLICES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
SURE = 0.8
"""The chance with which a proposed change must let such a challenger pass in time."""

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of the ramp, to be planned.

    Args:
        key: key in model.yaml, for example rollout.canary[1].
        deadline_h: deadline in hours of event time.
        failure_share: limit of the failure gate.
        minimum_h: hours of event time that it lasts at least.
    """

    key: str
    name: str
    deadline_h: float
    failure_share: float
    step: StepPolicy
    minimum_h: float = 0.0

    @property
    def share(self) -> float | None:
        """The share of customers (0-1); None in shadow."""
        return None if self.step.percent is None else self.step.percent / 100


@dataclass(frozen=True, slots=True)
class GatePlan:
    """The needs of one gate of a step.

    Args:
        tolerance: tolerance of the gate; None if the step does not ask it.
        hours: median until HEALTHY for a challenger as good as the champion; None means more than
            `LONGEST` deadlines. 0 if the step does not ask.
        requests, customers, customer_days, positives: counts of the challenger's arm by then.
        passes: chance that such a challenger has passed it at the deadline.
        stops: chance that one with `HARM` times the limit is stopped by the deadline.
        exposed_customers, exposed_requests: number that this one has answered by its end, on
            average.
        loss: number of those requests (for alerts, of their alerts) that go wrong.
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
    """The plan of a step.

    Args:
        hours: median until every gate is HEALTHY; None means more than `LONGEST` deadlines.
        late_hours: hours until `SURE` of the challengers as good as the champion have passed.
        passes: chance that such a challenger has passed at the deadline.
        decides: name of the gate, or of the sample, that is complete last.
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
    """The expected verdict by the labels of the shadow phase.

    Args:
        positives: expected number of positives in the shadow phase.
        passes: chance that a version is confirmed that finds as many positives as its champion.
        stops: chance that one is taken back that misses `HARM` times the limit more.
        requests: number in shadow that confirms with chance `SURE`; None means that no label says
            positive, or that decisions hide too much.
        hidden: number of requests of the shadow phase whose outcome the champion's decision hides;
            `let_through` of them are known all the same.
        exploration: smallest share of `SLICES` that would confirm with chance `SURE` at this
            sample; None means that none would, or that nothing is hidden.
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
    """The progress of a step for challengers as good as the champion.

    Args:
        ended: hours until each challenger has passed; infinite means more than `LONGEST` deadlines.
        passes: chance that a challenger has passed by the deadline.
    """

    ended: Floats
    passes: float

    @property
    def hours(self) -> float:
        """The median hours until a challenger has passed; infinite if fewer than half pass."""
        return _median(self.ended)

    @property
    def late_hours(self) -> float:
        """The hours until the share `SURE` of them has passed."""
        return float(np.quantile(self.ended, SURE, method="higher"))


def progress(
    profile: TrafficProfile, stage: Stage, expected: Alerts | None, *, drawn: int = COURSES // 4
) -> Progress:
    """When a step is passed and with which chance, without the needs of each gate.

    Args:
        expected: expected alerts; None if they are not known, which leaves out the gates on alerts.
        drawn: number of challengers to simulate.
    """
    schedule = _schedule(profile, stage, drawn)
    passed = [gate.passes(good=True) for gate in _gates(stage, schedule, expected)]
    return _progress(stage, schedule, [_sampled(profile, stage, schedule), *passed])


def plan_stage(
    profile: TrafficProfile, stage: Stage, expected: Alerts | None, *, drawn: int = COURSES
) -> StagePlan:
    """The plan of a step at this traffic, with the needs of each of its gates."""
    schedule = _schedule(profile, stage, drawn)
    gates = _gates(stage, schedule, expected)
    passed = {"sample": _sampled(profile, stage, schedule)}
    passed |= {gate.name: gate.passes(good=True) for gate in gates}
    every = list(passed.values())
    hours = {name: _median(_first(flags, schedule.hours)) for name, flags in passed.items()}
    going = _progress(stage, schedule, every)
    return StagePlan(
        key=stage.key,
        name=stage.name,
        percent=stage.step.percent,
        deadline_h=stage.deadline_h,
        hours=_if_finite(going.hours),
        late_hours=_if_finite(going.late_hours),
        passes=going.passes,
        decides=max(hours, key=lambda name: hours[name]),
        gates=tuple(
            _gate_plan(stage, gate, schedule, passed[gate.name], _all(every)) for gate in gates
        ),
    )


def _progress(stage: Stage, schedule: AnalysisSchedule, passed: Sequence[Flags]) -> Progress:
    ended = _first(_all(passed), schedule.hours)
    return Progress(ended, float((ended <= stage.deadline_h * (1 + 1e-9)).mean()))


@dataclass(frozen=True, slots=True)
class _Gate:
    """The paths of one gate.

    Args:
        counts: (good challenger, held to the tolerance) → its sums; several if the nearest of some
            expectations counts.
        loss: share of the bad challenger's requests that go wrong.
        is_counted: a step is not passed while more than the limit was counted.
        by_events: another proof that the bad challenger is bad.
    """

    name: str
    tolerance: float | None
    limit: float
    errors: Errors
    counts: Callable[[bool, bool], tuple[Sums, ...]]
    loss: float
    absolute: bool = True
    two_sided: bool = False
    is_counted: bool = False
    by_events: Callable[[], Flags] | None = None

    def passes(self, *, good: bool) -> Flags:
        """Whether, at each interim analysis, no more than the tolerance is left open."""
        if self.tolerance is None:
            shape = self.counts(good, False)[0].value.shape
            return np.ones(shape, dtype=bool)
        most = self.tolerance if self.absolute else 0.0
        every = self.counts(good, True)
        passed = _any([self._open(sums) <= most for sums in every])
        if not self.is_counted:
            return passed
        return passed & _any([self._size(sums) <= self.limit for sums in every])

    def stops(self) -> Flags:
        """Whether, at each interim analysis, the bad challenger is proven beyond the limit."""
        most = self.limit if self.absolute else 0.0
        every = self.counts(False, False)
        stopped = _all([s.value - s.width(self.errors.stop) > most for s in every])
        return stopped if self.by_events is None else stopped | self.by_events()

    def _size(self, sums: Sums) -> Floats:
        return np.abs(sums.value) if self.two_sided else sums.value

    def _open(self, sums: Sums) -> Floats:
        return self._size(sums) + sums.width(self.errors.missed)


def _gates(stage: Stage, schedule: AnalysisSchedule, expected: Alerts | None) -> list[_Gate]:
    gates = [_failures(stage, schedule)]
    if expected is not None:
        gates.append(_alert_gate(stage, schedule, expected))
    if stage.share is None:
        if expected is not None and stage.step.predicted.replayed:
            gates.append(_disagreement(stage, schedule, expected))
    elif schedule.profile.latency_us:
        stop, tolerance = stage.step.stop, stage.step.tolerance
        gates += [
            _speed(stage, schedule, 0.5, stop.latency_p50, tolerance.latency_p50),
            _speed(stage, schedule, 0.99, stop.latency_p99, tolerance.latency_p99),
        ]
    return gates


def _failures(stage: Stage, schedule: AnalysisSchedule) -> _Gate:
    more = HARM * stage.failure_share

    def counts(good: bool, is_shown: bool) -> tuple[Sums, ...]:
        worse = 0.0 if good else more
        return (simulated_paths.failures(schedule, more=worse, is_proof=not is_shown),)

    step, limit = stage.step, stage.failure_share
    both = step.errors.of("failures")
    errors = Errors(both.stop * (1 - BY_EVENTS), both.missed)

    def by_events() -> Flags:
        wanted = math.log(1 / (both.stop * BY_EVENTS))
        return simulated_paths.failure_evidence(schedule, more=more, limit=limit) >= wanted

    gate = _Gate("failures", step.tolerance.failures, limit, errors, counts, more)
    return replace(gate, is_counted=True, by_events=by_events)


def _alert_gate(stage: Stage, schedule: AnalysisSchedule, expected: Alerts) -> _Gate:
    step = stage.step
    more = HARM * step.stop.alerts
    tolerance, limit, is_paired = step.tolerance.alerts, step.stop.alerts, stage.share is None

    def counts(good: bool, is_shown: bool) -> tuple[Sums, ...]:
        at = (tolerance or limit) if is_shown else limit
        found = _alerts(schedule, expected, 0.0 if good else more, at)
        if is_shown:  # a pass is compared with the prediction
            found = tuple(replace(sums, once=0.0) for sums in found)
        # on the same requests, only the champion's share: it is assumed to stay as in replay
        return found[:1] if is_paired else found

    both = step.errors.of("alerts")
    halves = Errors(both.stop / 2, both.missed / 2)  # both sides are harm
    loss = more * expected.own
    return _Gate(
        "alerts", tolerance, limit, halves, counts, loss, two_sided=True, is_counted=is_paired
    )


def _disagreement(stage: Stage, schedule: AnalysisSchedule, expected: Alerts) -> _Gate:
    step = stage.step
    more = HARM * step.stop.disagreement
    tolerance, limit = step.tolerance.disagreement, step.stop.disagreement

    def counts(good: bool, is_shown: bool) -> tuple[Sums, ...]:
        found = simulated_paths.disagreement(schedule, expected, more=0.0 if good else more)
        return (replace(found, once=0.0) if is_shown else found,)

    errors = step.errors.of("disagreement")
    return _Gate("disagreement", tolerance, limit, errors, counts, more * expected.either)


def _alerts(
    schedule: AnalysisSchedule, expected: Alerts, more: float, at: float
) -> tuple[Sums, ...]:
    if schedule.share is None:
        arms = simulated_paths.alert_pairs(schedule, expected, more=more)
    else:
        arms = simulated_paths.alert_arms(schedule, expected, more=more, at=at)
    by_replay = simulated_paths.alerts_by_replay(schedule, expected, more=more)
    return (arms, *([] if by_replay is None else [by_replay]))


def _speed(
    stage: Stage, schedule: AnalysisSchedule, quantile: float, limit: float, tolerance: float | None
) -> _Gate:
    profile = schedule.profile
    usual_us = max(profile.quantile_us(quantile), 1.0)
    immaterial_us = stage.step.immaterial_us
    limit = harmful_ratio(limit, usual_us, immaterial_us)
    tolerance = tolerance and harmful_ratio(tolerance, usual_us, immaterial_us)
    slow = 1 + HARM * (limit - 1)
    late = profile.slower(usual_us / slow) - (1 - quantile)

    def counts(good: bool, passing: bool) -> tuple[Sums, ...]:
        ratio = (tolerance or limit) if passing else limit
        return (
            simulated_paths.latency(schedule, quantile, ratio=ratio, slower=1.0 if good else slow),
        )

    name = f"latency_p{100 * quantile:g}"
    return _Gate(name, tolerance, limit, stage.step.errors.of(name), counts, late, absolute=False)


def _schedule(profile: TrafficProfile, stage: Stage, drawn: int) -> AnalysisSchedule:
    before = np.geomspace(SHORTEST * stage.deadline_h, stage.deadline_h, ANALYSES)
    after = np.geomspace(stage.deadline_h, LONGEST * stage.deadline_h, ANALYSES // 4)[1:]
    return AnalysisSchedule(profile, np.concatenate([before, after]), stage.share, drawn, SEED)


def _sampled(profile: TrafficProfile, stage: Stage, schedule: AnalysisSchedule) -> Flags:
    """Whether, at each interim analysis, the arm has had what the step asks for at least."""
    units = np.array([profile.customers_in(h, stage.share or 1.0) for h in schedule.hours])
    enough = (units >= stage.step.units) & (schedule.trials()[0] >= stage.step.requests)
    return enough & (schedule.hours * (1 + 1e-9) >= stage.minimum_h)


def _gate_plan(
    stage: Stage, gate: _Gate, schedule: AnalysisSchedule, passed: Flags, every: Flags
) -> GatePlan:
    profile, share = schedule.profile, stage.share or 1.0
    in_time = schedule.hours <= stage.deadline_h * (1 + 1e-9)
    reached = _first(passed, schedule.hours)
    hours = 0.0 if gate.tolerance is None else _if_finite(_median(reached))
    needed = hours or 0.0
    requests = profile.requests_h * needed * share
    stopped = _first(gate.stops()[:, in_time], schedule.hours)
    # a bad challenger may also pass; then the next step continues with it
    wrongly = _first((gate.passes(good=False) & every)[:, in_time], schedule.hours)
    ended = np.minimum(np.minimum(stopped, wrongly), stage.deadline_h)
    answered = 0.0 if stage.share is None else profile.requests_h * share * float(ended.mean())
    met = [profile.customers_in(h, share) for h in ended] if stage.share is not None else [0.0]
    return GatePlan(
        gate=gate.name,
        tolerance=gate.tolerance,
        limit=gate.limit,
        hours=hours,
        requests=round(requests),
        customers=round(profile.customers_in(needed, share)),
        customer_days=round(profile.customer_days(needed, share)),
        positives=None if math.isnan(profile.positives) else round(requests * profile.positives),
        passes=float((reached <= schedule.hours[in_time][-1]).mean()),
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
    """The expected verdict on recall by the labels of the shadow phase; None without labels.

    Args:
        limit, tolerance: positives found less than the champion, as a share of all positives.
        alone: share of the positives that only one version finds, at equal recall.
    """
    if not profile.positives > 0 or shadow.hours is None:
        return None
    if profile.hidden is not None:
        held = LabelPaths(
            profile.positives, profile.hidden, limit, tolerance, HARM * limit, errors, alone, SEED
        )
        return _confirmation_with_hidden(held, round(profile.requests_h * shadow.hours))
    positives = round(profile.requests_h * shadow.hours * profile.positives)

    def chance(count: int, worse: float, most: float, error: float, sign: int) -> float:
        variance = max(alone, worse) * count
        width = sequence_width(variance, error_share=error)
        spread = math.sqrt(max(variance - count * worse**2, 1e-9))
        return float(special.ndtr((most * count - sign * width - worse * count) / spread))

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


def _confirmation_with_hidden(held: LabelPaths, requests: int) -> Confirmation:
    """The expected verdict by the labels of `requests` requests, by the judge's own bounds."""
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


def _first(flags: Flags, hours: Floats) -> Floats:
    """Hours of each path's first interim analysis with the flag; infinite if there is none."""
    return np.where(flags.any(axis=1), hours[flags.argmax(axis=1)], np.inf)


def _median(hours: Floats) -> float:
    return float(np.quantile(hours, 0.5, method="higher"))


def _if_finite(hours: float) -> float | None:
    return hours if math.isfinite(hours) else None
