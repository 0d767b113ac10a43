"""The plan of a whole ramp: whether it can decide, changes that would let it decide, and better
steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from mlplatform.model.policies.rollout import StopLimits, Tolerance
from mlplatform.rollouts.verdicts.planner import (
    DECIDES,
    LONGEST,
    SURE,
    Confirmation,
    Stage,
    StagePlan,
    progress,
)
from mlplatform.rollouts.verdicts.simulated_paths import Alerts
from mlplatform.rollouts.verdicts.traffic_profile import TrafficProfile
from mlplatform.runtime.times import duration_text
from mlplatform.runtime.units import HOUR_S

LONGEST_STEP_H = 24.0
"""Longest time of a proposed step in hours: it sees all hours of a day, and needs no more."""
STEADY = 0.95
"""The chance with which a proposed step passes a challenger as good as the champion in time."""
PERCENTS: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 25.0, 50.0)
LEAST_PART = 0.09
"""Least part of a step's present share that a proposal keeps, because load should grow in steps."""
STRICTER: Final = (0.1, 0.2, 0.5)
"""Factors on the present tolerances that a proposal tries, strictest first; a tolerance is never
below what stops."""
WIDER: Final = tuple(1.15**n for n in range(1, 30))
BUSIER: Final = tuple(1.25**n for n in range(1, 32))


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change that would let a step decide in time.

    Args:
        key: key in model.yaml; "traffic" stands for requests per hour.
        now, value: present value, and the value that would be needed.
    """

    key: str
    now: float
    value: float

    def __str__(self) -> str:
        if self.key == "traffic":
            return f"{self.value:,.0f} requests/h of traffic (now {self.now:,.0f})"
        if self.key.endswith(".required"):
            return f"{self.key}: false (now true)"
        return f"{self.key}: {self.value:g} (now {self.now:g})"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A step that can't decide by its deadline, with the changes that would let it; one of them is
    enough."""

    step: StagePlan
    remedies: tuple[tuple[Remedy, ...], ...]

    def __str__(self) -> str:
        step = self.step
        takes = f"more than {duration_text(LONGEST * step.deadline_h * HOUR_S)}"
        if step.hours is not None:
            takes = duration_text(step.hours * HOUR_S)
        ways = "; or ".join(" and ".join(map(str, way)) for way in self.remedies)
        return (
            f"{step.name} can't decide within its deadline of "
            f"{duration_text(step.deadline_h * HOUR_S)} ({step.key}.deadline_h). Its slowest gate, "
            f"{step.decides}, takes {takes} at the present traffic. {100 * step.passes:.0f} % of "
            "the challengers as good as the champion would pass in time. "
            + (f"It could decide with {ways}" if ways else "No single change makes it possible")
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a rollout at the traffic of the last days.

    Args:
        history_h, requests_h: hours of event time that were read, and requests per hour.
        steps: shadow and each canary step. Steps after a refused one are planned as well.
        confirmation: expected verdict on recall; None if no label says positive, or recall is not
            asked for.
        refusals: steps that can't decide; empty if the rollout can decide.
        notes: further remarks, without a full stop at the end.
        proposed: canary steps that expose fewer customers, or ask for more; empty if there are
            none.
    """

    history_h: float
    requests_h: float
    steps: tuple[StagePlan, ...]
    confirmation: Confirmation | None
    refusals: tuple[Refusal, ...]
    notes: tuple[str, ...]
    proposed: tuple[Stage, ...]

    @property
    def hours(self) -> float | None:
        """The hours of shadow and canary, without the wait for an approval; None: it never ends."""
        known = [step.hours for step in self.steps if step.hours is not None]
        return sum(known) if len(known) == len(self.steps) else None

    @property
    def stops(self) -> dict[str, float]:
        """The chance, by gate, that some step stops a challenger with twice the gate's limit."""
        names = dict.fromkeys(gate.gate for step in self.steps for gate in step.gates)
        return {name: 1 - math.prod(self._missed(name)) for name in names}

    def _missed(self, gate: str) -> Iterator[float]:
        return (1 - g.stops for step in self.steps for g in step.gates if g.gate == gate)

    @property
    def refusal(self) -> str:
        """Why no rollout should be opened; empty if the rollout can decide."""
        return ". ".join(map(str, self.refusals))


def refusals(
    profile: TrafficProfile,
    stages: Sequence[Stage],
    plans: Sequence[StagePlan],
    expected: Alerts | None,
) -> tuple[Refusal, ...]:
    """The steps that can't decide, with ways out. They pass too few challengers as good as the
    champion, even if every outage hits both arms alike and cancels out."""
    shared = _without_outages(profile)
    return tuple(
        Refusal(plan, tuple(_remedies(profile, stage, plan, expected)))
        for stage, plan in zip(stages, plans, strict=True)
        if plan.passes < DECIDES and progress(shared, stage, expected).passes < DECIDES
    )


def doubts(plans: Sequence[StagePlan], refused: Sequence[Refusal]) -> Iterator[str]:
    """The steps that may or may not decide in time, in sentences."""
    named = {refusal.step.key for refusal in refused}
    for plan in plans:
        if plan.passes < SURE and plan.key not in named:
            yield (
                f"{plan.name} passes {100 * plan.passes:.0f} % of the challengers as good as the "
                f"champion within its deadline of {duration_text(plan.deadline_h * HOUR_S)} "
                f"({plan.key}.deadline_h). It passes more where outages hit both arms alike"
            )


def _without_outages(profile: TrafficProfile) -> TrafficProfile:
    alone = tuple(0.0 for _ in profile.slow_together)
    return dataclasses.replace(profile, failed_together=0.0, slow_together=alone)


def _remedies(
    profile: TrafficProfile, stage: Stage, plan: StagePlan, expected: Alerts | None
) -> Iterator[tuple[Remedy, ...]]:
    def passes(profile: TrafficProfile, stage: Stage) -> bool:
        return progress(profile, stage, expected).passes >= SURE

    if plan.late_hours is not None:
        yield (Remedy(f"{stage.key}.deadline_h", stage.deadline_h, _whole(plan.late_hours)),)
    if plan.decides == "sample":
        yield tuple(_smaller_sample(profile, stage))
    narrow = [g.gate for g in plan.gates if g.passes < SURE]
    wider = _first(WIDER, lambda factor: passes(profile, _widened(stage, narrow, factor)))
    if narrow and wider is not None:
        now, then = stage.step.tolerance, _widened(stage, narrow, wider).step.tolerance
        yield tuple(
            Remedy(f"{stage.key}.tolerance.{name}", getattr(now, name), getattr(then, name))
            for name in narrow
        )
    if stage.step.percent is not None:
        larger = [p for p in PERCENTS if p > stage.step.percent]
        share = _first(larger, lambda percent: passes(profile, with_percent(stage, percent)))
        if share is not None:
            yield (Remedy(f"{stage.key}.percent", stage.step.percent, share),)
    busier = _first(BUSIER, lambda factor: passes(with_traffic(profile, factor), stage))
    if busier is not None:
        yield (Remedy("traffic", profile.requests_h, math.ceil(profile.requests_h * busier)),)


def _smaller_sample(profile: TrafficProfile, stage: Stage) -> Iterator[Remedy]:
    """A smaller sample: what the arm has by nine tenths of the deadline."""
    step, share, hours = stage.step, stage.share or 1.0, 0.9 * stage.deadline_h
    units, requests = profile.customers_in(hours, share), profile.requests_h * hours * share
    if units < step.units:
        yield Remedy(f"{stage.key}.minimum_units", step.units, max(math.floor(units), 1))
    if requests < step.requests:
        yield Remedy(f"{stage.key}.minimum_requests", step.requests, max(math.floor(requests), 1))


def propose_stages(
    profile: TrafficProfile, stages: tuple[Stage, ...], expected: Alerts | None
) -> tuple[Stage, ...]:
    """Better canary steps of at most a day: as strict as the present share can show, then the
    smallest share that shows as much. The last step keeps its share, because it carries the load
    before a promotion.

    A step that needs more than a day stays as it is. Empty where no step changes.
    """
    found: list[Stage] = []
    canary = [stage for stage in stages if stage.step.percent is not None]
    for stage in canary:
        last = stage is canary[-1]
        least = found[-1].step.percent if found else 0.0
        found.append(_better(profile, stage, expected, above=least or 0.0, keep_share=last))
    return () if found == canary else tuple(found)


def _better(
    profile: TrafficProfile, stage: Stage, expected: Alerts | None, *, above: float,
    keep_share: bool,
) -> Stage:  # fmt: skip
    def within_a_day(stage: Stage) -> bool:
        going = progress(profile, stage, expected)
        return going.passes >= STEADY and going.hours <= LONGEST_STEP_H

    if not within_a_day(stage):
        return stage
    factor = _first(STRICTER, lambda f: within_a_day(_stricter(stage, f)))
    stage = stage if factor is None else _stricter(stage, factor)
    if profile.latency_us and within_a_day(tailed := _with_tail(stage)):
        stage = tailed
    if keep_share:
        return stage
    today = stage.step.percent or 0.0
    smaller = [p for p in PERCENTS if max(above, LEAST_PART * today) < p < today]
    percent = _first(smaller, lambda p: within_a_day(with_percent(stage, p)))
    return stage if percent is None else with_percent(stage, percent)


def with_percent(stage: Stage, percent: float) -> Stage:
    """The step with another share of the customers."""
    return dataclasses.replace(stage, step=dataclasses.replace(stage.step, percent=percent))


def with_traffic(profile: TrafficProfile, factor: float) -> TrafficProfile:
    """The traffic profile with `factor` times the requests, by `factor` times the customers."""
    return dataclasses.replace(
        profile,
        requests_h=profile.requests_h * factor,
        customers=tuple((n * factor, rate) for n, rate in profile.customers),
        failed_together=profile.failed_together * factor,
    )


def _widened(stage: Stage, gates: list[str], factor: float) -> Stage:
    tolerance = stage.step.tolerance
    changed = {name: _times(name, getattr(tolerance, name), factor) for name in gates}
    return _with_tolerance(stage, msgspec.structs.replace(tolerance, **changed))


def _stricter(stage: Stage, factor: float) -> Stage:
    tolerance, stop = stage.step.tolerance, stage.step.stop
    changed = {
        name: max(_times(name, value, factor), _limit(stage, stop, name))
        for name in msgspec.structs.asdict(tolerance)
        if (value := getattr(tolerance, name)) is not None
    }
    return _with_tolerance(stage, msgspec.structs.replace(tolerance, **changed))


def _with_tail(stage: Stage) -> Stage:
    """The step with a tolerance on the 99th percentile, no stricter than what stops."""
    tolerance, step = stage.step.tolerance, stage.step
    if tolerance.latency_p99 is not None:
        return stage
    return _with_tolerance(
        stage, msgspec.structs.replace(tolerance, latency_p99=step.stop.latency_p99)
    )


def tails_not_asked(profile: TrafficProfile, stages: Sequence[Stage]) -> Iterator[str]:
    """The cost of a tolerance on the 99th percentile, in a sentence, if no canary step asks for
    one."""
    canary = [stage for stage in stages if stage.step.percent is not None]
    if not profile.latency_us or any(s.step.tolerance.latency_p99 is not None for s in canary):
        return
    takes = []
    for stage in canary:
        alone = _with_tail(_with_tolerance(stage, Tolerance(failures=1.0)))
        hours = progress(profile, alone, None).hours
        answers = profile.requests_h * (stage.share or 1.0) * hours
        takes.append(
            f"{duration_text(hours * HOUR_S)} ({answers:,.0f} answers) in {stage.name}"
            if math.isfinite(hours)
            else f"more than {duration_text(LONGEST * stage.deadline_h * HOUR_S)} in {stage.name}"
        )
    if takes:
        limit = canary[0].step.stop.latency_p99
        yield (
            "no canary step has a tolerance for latency_p99, so a challenger whose slowest answers "
            f"are slower may pass. A tolerance of {limit:g} times the champion's would take "
            f"{', '.join(takes)}"
        )


def _with_tolerance(stage: Stage, tolerance: Tolerance) -> Stage:
    return dataclasses.replace(stage, step=dataclasses.replace(stage.step, tolerance=tolerance))


def _limit(stage: Stage, stop: StopLimits, name: str) -> float:
    return stage.failure_share if name == "failures" else float(getattr(stop, name))


def _times(name: str, value: float, factor: float) -> float:
    """The tolerance times `factor`; of a latency's ratio, the part beyond 1 times `factor`."""
    wide = 1 + (value - 1) * factor if name.startswith("latency") else value * factor
    digits = 2 - math.floor(math.log10(abs(wide)))
    return min(round(wide, digits), 1.0) if name == "failures" else round(wide, digits)


def _whole(hours: float) -> float:
    """A deadline rounded up as people write it: to whole hours, and over 48 h to whole days."""
    return float(math.ceil(hours / 24) * 24 if hours > 48 else math.ceil(hours))


def _first(candidates: Sequence[float], wanted: Callable[[float], bool]) -> float | None:
    return next((c for c in candidates if wanted(c)), None)


def steps_text(stages: tuple[Stage, ...]) -> str:
    """Canary steps in the form of model.yaml."""
    lines = ["rollout:", "  canary:"]
    for stage in stages:
        step = stage.step
        asked = msgspec.structs.asdict(step.tolerance).items()
        shown = ", ".join(f"{name}: {value:g}" for name, value in asked if value is not None)
        least = f"minimum_h: {stage.minimum_h:g}, " if stage.minimum_h else ""
        lines.append(
            f"    - {{percent: {step.percent:g}, minimum_units: {step.units}, {least}"
            f"deadline_h: {stage.deadline_h:g},\n       tolerance: {{{shown}}}}}"
        )
    return "\n".join(lines)
