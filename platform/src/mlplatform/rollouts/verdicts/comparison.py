"""Gates that compare a challenger with the champion of the same window.

Each has a limit and, at each step, a tolerance. It is UNHEALTHY as soon as more than the limit is
proven against the challenger, HEALTHY as soon as no more than the tolerance is left open, else
INCONCLUSIVE: no data, or too little, shows nothing. Bounds hold at each interim analysis.

In shadow both arms answered identical requests and are compared pair by pair; in canary customers
were split at random.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from mlplatform.learning.validation.report_entries import NOTHING_YET
from mlplatform.model.policies.decision_scale import Task
from mlplatform.model.policies.rollout import StopLimits, Tolerance
from mlplatform.model.policies.segments import SegmentLimits
from mlplatform.rollouts.journal.basis_evidence import Role
from mlplatform.rollouts.verdicts.aggregates import Aggregates
from mlplatform.rollouts.verdicts.speed import latency_gate, utilisation_gate
from mlplatform.rollouts.verdicts.statistics import (
    ClusterSums,
    Difference,
    design_effect,
    design_effect_of_challenger,
    proven_excess,
    share_difference,
)
from mlplatform.rollouts.verdicts.verdict import (
    EXPECTED,
    PAIRS,
    Bound,
    Errors,
    Gate,
    Harm,
    Picture,
    Prediction,
    certainty_text,
    change_text,
    deviation_text,
    difference_values,
    fraction,
    harm_gate,
    in_percent,
    number_of,
    points,
    points_fewer,
)
from mlplatform.runtime.figures import percent

STARVING = 5.0
"""A challenger that starves the champion makes both fail. So this many times the limit of failures
stops it, even if the champion fails as often."""
BY_EVENTS = 0.75
"""The proof by events has this part of a stop's error by failures, that by sums the rest."""
MAY_HAVE_LEFT, HAS_LEFT = 1.96, 3.29
"""Distances of the champion's share of alerts from that in replay, in standard errors, on the same
requests. Beyond the first (by chance one champion in 20, at one interim analysis), the predicted
share excuses a challenger. Beyond the second (one in 1000, and 2 % at any of 200 interim analyses),
it also shows health, if each of them is as close to the predicted share too."""
MOST_FEWER = 0.6
"""A canary step does not pass while more than this share of the alerts expected is lacking: wide
tolerances, such as 1.5, would allow a challenger that has fallen silent."""
UNCOPIED_SHARE = 0.1
"""Largest share of the champion's decisions that may lack a copy: nobody chose which they are."""


@dataclass(frozen=True, slots=True)
class SegmentStep:
    """The requirements of a step for one segment.

    Args:
        errors: error rates of each of its gates; all segments share the error of one gate.
        predicted: prediction from the segment's own requests if they were replayed, else from all
            requests.
        holds: whether the step waits until the segment meets its tolerance.
    """

    name: str
    stop: SegmentLimits
    tolerance: SegmentLimits
    errors: Errors
    predicted: Prediction
    holds: bool


def failure_gate(counts: Aggregates, bound: Bound, errors: Errors) -> Gate:
    """The gate on failures: requests not answered in time, against the champion's.

    Failures are clustered by customer and day and by outage, and the clustering with the wider
    bounds counts; to prove harm, by longer outages too. The champion's failures are those within
    the time that a challenger is given, so that a pause of the machine counts for both arms.
    """
    provable, days = counts.provable_failures, counts.failures[0]
    by_sums = errors.stop * (1 - BY_EVENTS)
    found, proven, alone = (
        share_difference(views, stop_error=by_sums, pass_error=errors.missed, ratio=ratio)
        for views, ratio in ((counts.failures, 1.0), (provable, 1.0), (provable, 0.0))
    )
    if not found.trials or math.isnan(found.value):
        reason = f"{NOTHING_YET}: one of the two arms has had no request."
        return Gate("failures", bound.verdict(math.nan, math.nan), reason, {})
    figures = (
        "The challenger failed to answer "
        f"{fraction(days.challenger_hits, days.challenger_trials, 'requests')} in time; the "
        "champion failed to answer "
        f"{fraction(days.champion_hits, days.champion_trials, 'requests')} within the same time."
    )
    if alone.stop_low > STARVING * bound.limit:
        reason = (
            f"The challenger fails to answer at least {in_percent(alone.stop_low)} of its requests "
            f"in time ({certainty_text(errors.stop)}). {figures} The limit is "
            f"{in_percent(STARVING * bound.limit)}, however many the champion fails."
        )
        values = difference_values(alone) | {"proven": number_of(alone.stop_low)}
        return Gate("failures", "UNHEALTHY", reason, values)
    by_events = proven_excess(*counts.failure_events, error_share=errors.stop * BY_EVENTS)
    by_events = min(by_events, found.value)  # at most the counted excess
    stop_low = max(proven.stop_low, by_events) if by_events > 0 else proven.stop_low
    most, than = points(min(max(found.pass_high, 0.0), 1.0)), "of its requests in time"
    harm = Harm(
        proven=f"The challenger answers at least {points_fewer(stop_low)} {than} than the champion",
        excluded=(
            f"The challenger answers at most {most} fewer {than} than the champion"
            if found.pass_high > 0
            else f"The challenger answers no fewer {than} than the champion"
        ),
        still_open=f"The challenger may answer up to {most} fewer {than} than the champion",
        figures=figures,
        stop_low=stop_low,
        pass_high=found.pass_high,
        unit=points_fewer,
        counted=found.value,
    )
    return harm_gate("failures", harm, bound, errors, difference_values(found))


def alert_gate(
    view: ClusterSums, bound: Bound, errors: Errors, predicted: Prediction, *, name: str = "alerts"
) -> Gate:
    """The gate on alerts: the challenger's, as a share of those expected of it.

    Both too many and too few are harm: people have no time for the first, and the others are missed
    positives. Expected are the champion's of the same window, by the predicted ratio, and the
    predicted share of all requests. Only what deviates from both is harm. On the same requests the
    second is no excuse while the champion raises as many alerts as replay saw of it.
    """
    change = predicted.champion_change(view) if view.is_paired else math.inf
    by_champion = _deviation(view, errors, bound, predicted, None)
    by_share = _deviation(view, errors, bound, None, predicted.alert_share)
    deviations, shown = (
        [found for found in (by_champion, by_share if counts else None) if found is not None]
        for counts in (by_champion is None or change > least for least in (MAY_HAVE_LEFT, HAS_LEFT))
    )
    raised, answers = view.challenger_hits, view.challenger_trials
    theirs, others = view.champion_hits, view.champion_trials
    if not deviations and not answers:
        nothing = f"{NOTHING_YET}: the challenger has answered no request."
        return Gate(name, bound.verdict(math.nan, math.nan), nothing, {"trials": answers})
    mine, champions = fraction(raised, answers, "requests"), fraction(theirs, others, "requests")
    if not deviations:
        reason = (
            f"{NOTHING_YET}: no alert is expected. The challenger raised alerts on {mine}; "
            f"the champion raised alerts on {champions}."
        )
        return Gate(name, bound.verdict(math.nan, math.nan), reason, {"trials": answers})
    more = min(found.more for found in deviations)
    fewer = min(found.fewer for found in deviations)
    stop_low = max(more, fewer)
    nearest = min(shown, key=lambda found: found.left_open)
    figures = (
        f"The challenger raised alerts on {mine}; alerts on {percent(nearest.expected)} were "
        f"expected. The champion raised alerts on {champions}."
    )
    low, high = change_text(nearest.low), change_text(nearest.high)
    if nearest.low > -1:
        lie, may_lie = f"lie between {low} and {high}", f"may lie anywhere between {low} and {high}"
    else:  # there may be no alerts
        lie = f"are at {'least' if nearest.high < 0 else 'most'} {high}"
        may_lie = f"may be anything up to {high}"
    rise, lacking = (min(sign * found.value for found in shown) for sign in (1, -1))
    counted = max(rise, lacking) if view.is_paired else lacking * (lacking > MOST_FEWER)
    values: dict[str, float | int | None] = {
        "share": number_of(nearest.value), "low": number_of(nearest.low),
        "high": number_of(nearest.high), "challenger": number_of(raised / answers),
        "champion": number_of(theirs / others) if others else None,
        "expected": number_of(nearest.expected), "trials": answers,
    }  # fmt: skip
    proven = change_text(-stop_low) if fewer > more else change_text(stop_low)
    harm = Harm(
        proven=f"The challenger's alerts are at least {proven} {EXPECTED}",
        excluded=f"The challenger's alerts {lie} {EXPECTED}",
        still_open=f"The challenger's alerts {may_lie} {EXPECTED}",
        figures=figures,
        stop_low=stop_low,
        pass_high=nearest.left_open,
        counted=counted,
        unit=deviation_text,
    )
    return harm_gate(name, harm, bound, errors, values)


@dataclass(frozen=True, slots=True)
class _Deviation:
    """The deviation of the challenger's alerts from one expectation, as a share of it.

    Args:
        more, fewer: least proven deviation to either side, at the limit.
        low, high: bounds of the deviation, at the tolerance.
    """

    expected: float
    value: float
    more: float
    fewer: float
    low: float
    high: float

    @property
    def left_open(self) -> float:
        return max(-self.low, self.high)


def _deviation(
    view: ClusterSums,
    errors: Errors,
    bound: Bound,
    predicted: Prediction | None,
    share: float | None,
) -> _Deviation | None:
    """The deviation from the champion's share times the predicted ratio, or from a share; None
    where none is expected. What replay does not know of the ratio counts (in canary where its
    report says how alerts cluster).

    Where arms answer different customers, a deviation is one from a multiple of the champion's
    share, which is known no better: each bound has the width of the multiple that it is held to.
    How alerts cluster is known by both arms: a challenger without any shows nothing of it.

    Source: Fieller (1954), Some problems in interval estimation.
    """
    ratio = predicted.alert_ratio if predicted is not None else 0.0
    if share is None and not ratio:
        return None
    not_known = 0.0
    if predicted is not None and (view.is_paired or predicted.design_effect is not None):
        not_known = predicted.ratio_variance(design_effect(view))
    champion = view.champion_hits / max(view.champion_trials, 1)
    stop, missed = errors.stop / 2, errors.missed / 2

    def at(deviation: float, *, as_champion: bool = False) -> Difference:
        times = ratio * (1.0 if view.is_paired else max(1 + deviation, 0.0))
        noise = not_known * (times * champion) ** 2
        return share_difference([view], stop_error=stop, pass_error=missed, ratio=times,
            noise=noise, as_champion=as_champion)  # fmt: skip

    found, limit, tolerance = at(0.0), bound.limit, bound.tolerance or bound.limit
    expected = found.expected if share is None else share
    if not expected > 0 or not found.trials:
        return None
    value = (found.challenger - expected) / expected
    return _Deviation(
        expected=expected,
        value=value,
        more=value - at(limit).stop_width / expected,
        fewer=-value - at(-limit, as_champion=share is not None).stop_width / expected,
        low=value - at(-tolerance).pass_width / expected,
        high=value + at(tolerance).pass_width / expected,
    )


def disagreement_gate(
    view: ClusterSums,
    bound: Bound,
    errors: Errors,
    predicted: Prediction,
    *,
    name: str = "disagreement",
    task: Task = "binary",
) -> Gate:
    """The gate on disagreement in shadow: the requests that the arms decided differently, among
    those with an alert of either arm; of classes and numbers, among all."""
    pairs = predicted.pair_words(task)
    topic = pairs.topic
    if not predicted.replayed:
        reason = (
            "There is nothing to compare with: this pair of versions was never replayed. "
            "Validate the version again."
        )
        return Gate(name, bound.verdict(math.nan, math.nan), reason, {})
    only, either = view.challenger_hits, view.challenger_trials
    if not either:
        reason = f"{NOTHING_YET}: {pairs.lacking}."
        return Gate(name, bound.verdict(math.nan, math.nan), reason, {})
    noise = predicted.disagreement_variance(design_effect_of_challenger(view))
    found = share_difference(
        [view], stop_error=errors.stop, pass_error=errors.missed, ratio=0.0, noise=noise
    )
    figures = (
        f"{pairs.counted.format(only=only, either=either)} ({percent(found.challenger)}); "
        f"replay predicted {percent(predicted.disagreement)}."
    )
    excess_low, excess_high = (
        found.stop_low - predicted.disagreement,
        found.pass_high - predicted.disagreement,
    )
    most = points(min(max(excess_high, 0.0), 1 - predicted.disagreement))
    no_more = f"by at most {most} more" if excess_high > 0 else "no more"
    values = {
        "share": number_of(found.challenger - predicted.disagreement),
        "low": number_of(found.pass_low - predicted.disagreement),
        "high": number_of(excess_high),
        PAIRS: either,
    }
    harm = Harm(
        proven=f"The arms disagree on {topic} by at least {points(excess_low)} more than predicted",
        excluded=f"The arms disagree on {topic} {no_more} than predicted",
        still_open=f"The arms may disagree on {topic} by up to {most} more than predicted",
        figures=figures,
        stop_low=excess_low,
        pass_high=excess_high,
        unit=lambda share: f"{points(share)} more than predicted",
    )
    return harm_gate(name, harm, bound, errors, values)


def segment_gates(
    counts: Aggregates, steps: tuple[SegmentStep, ...], *, in_canary: bool
) -> Iterator[Gate]:
    """The gates of each segment on its own requests: pair by pair in shadow, between arms in
    canary.

    A segment with few alerts is reported and is never healthy, because it shows nothing.
    """
    for step in steps:
        alerts, apart = counts.segment(step.name)
        bounds = [Bound(getattr(step.stop, n), getattr(step.tolerance, n))
                  for n in ("alerts", "disagreement")]  # fmt: skip
        found = [
            alert_gate(
                alerts, bounds[0], step.errors, step.predicted, name=f"alerts of {step.name}"
            )
        ]
        if not in_canary and step.predicted.replayed:
            name = f"disagreement of {step.name}"
            found.append(
                disagreement_gate(apart, bounds[1], step.errors, step.predicted, name=name)
            )
        for gate in found:
            reason = f"In segment {step.name}, {gate.reason[0].lower()}{gate.reason[1:]}"
            yield dataclasses.replace(gate, reason=reason, holds=step.holds)


def copy_gate(counts: Aggregates) -> list[Gate]:
    """The gate on copies: it is never healthy if too many requests were not put to the
    challenger."""
    copies, missing = counts.count("requests"), counts.uncopied
    if missing <= UNCOPIED_SHARE * (copies + missing):
        return []
    reason = (
        "Too many requests were never put to the challenger: "
        f"{fraction(missing, copies + missing, 'copies')} were dropped. "
        f"At most {in_percent(UNCOPIED_SHARE)} may be dropped."
    )
    return [Gate("copies", "INCONCLUSIVE", reason, {"copies": copies, "missing": missing})]


@dataclass(frozen=True, slots=True)
class Requirements:
    """The requirements of a step for the comparing gates.

    Args:
        failure_share: limit on the share of failures.
        pods: number of the challenger's pods once it gets all of the traffic.
        segments: segments that are also judged on their own.
        immaterial_us: microseconds by which latency may be higher without harm.
    """

    stop: StopLimits
    tolerance: Tolerance
    errors: Errors
    failure_share: float
    predicted: Prediction
    pods: int
    segments: tuple[SegmentStep, ...] = ()
    immaterial_us: float = 0.0


def comparisons(counts: Aggregates, terms: Requirements, role: Role) -> list[Gate]:
    """The gates of every comparison that a step asks for, in the order of `GATES`."""
    kinds = (kind for kind in GATES if role in kind.roles and kind.compare is not None)
    return [gate for kind in kinds if kind.compare for gate in kind.compare(counts, terms)]


@dataclass(frozen=True, slots=True)
class GateKind:
    """One kind of gate: all about it but its statistic.

    Args:
        name: name in evidence.
        title: name in texts for people.
        roles: roles of the challenger in which the gate is asked.
        picture: how to draw its interval; None if it has none.
        compare: makes its gates; None if another module asks it (`judgement`, `outcomes`).
    """

    name: str
    title: str
    roles: tuple[Role, ...]
    picture: Picture | None = None
    compare: Callable[[Aggregates, Requirements], Iterable[Gate]] | None = None


def _failures(counts: Aggregates, terms: Requirements) -> Iterator[Gate]:
    bound = Bound(terms.failure_share, terms.tolerance.failures)
    yield failure_gate(counts, bound, terms.errors.of("failures"))


def _alerts(counts: Aggregates, terms: Requirements) -> Iterator[Gate]:
    if terms.stop.task != "binary":
        return
    bound = Bound(terms.stop.alerts, terms.tolerance.alerts)
    yield alert_gate(counts.alerts, bound, terms.errors.of("alerts"), terms.predicted)


def _latency_p50(counts: Aggregates, terms: Requirements) -> Iterator[Gate]:
    bound, more_us = Bound(terms.stop.latency_p50, terms.tolerance.latency_p50), terms.immaterial_us
    errors = terms.errors.of("latency_p50")
    yield latency_gate(counts, 0.5, bound, errors, immaterial_us=more_us)


def _latency_p99(counts: Aggregates, terms: Requirements) -> Iterator[Gate]:
    bound, more_us = Bound(terms.stop.latency_p99, terms.tolerance.latency_p99), terms.immaterial_us
    errors = terms.errors.of("latency_p99")
    yield latency_gate(counts, 0.99, bound, errors, immaterial_us=more_us)


def _disagreement(counts: Aggregates, terms: Requirements) -> Iterator[Gate]:
    bound = Bound(terms.stop.disagreement, terms.tolerance.disagreement)
    view, errors, task = counts.disagreements, terms.errors.of("disagreement"), terms.stop.task
    yield disagreement_gate(view, bound, errors, terms.predicted, task=task)


def _utilisation(counts: Aggregates, terms: Requirements) -> Iterator[Gate]:
    bound = Bound(terms.stop.utilisation, terms.stop.utilisation)
    yield utilisation_gate(counts, bound, terms.errors.of("utilisation"), terms.pods)


_FAILURES: Final = Picture(
    axis="failures beyond the champion's", unit="points", harm="more", stops=True,
    arms="requests not answered in time",
)  # fmt: skip
_OF_ARMS_US: Final = ("challenger_us", "champion_us")
_OVER: Final = "answers over the allowed time, against the champion's"
GATES: Final[tuple[GateKind, ...]] = (
    GateKind("failures", "answers in time", ("shadow", "canary"),
        picture=_FAILURES, compare=_failures),
    GateKind("alerts", "share of alerts", ("shadow", "canary"), compare=_alerts,
        picture=Picture("alerts against the number expected", "percent", "either", stops=True,
            arms="requests with an alert")),
    GateKind("segments", "segments", ("shadow",),
        compare=lambda counts, terms: segment_gates(counts, terms.segments, in_canary=False)),
    GateKind("segments", "segments", ("canary",),
        compare=lambda counts, terms: segment_gates(counts, terms.segments, in_canary=True)),
    GateKind("latency_p50", "usual latency", ("canary",), compare=_latency_p50,
        picture=Picture(_OVER, "points", "slower", arms="usual latency (p50)",
            of_arms=_OF_ARMS_US, arm_unit="ms")),
    GateKind("latency_p99", "slowest answers", ("canary",), compare=_latency_p99,
        picture=Picture(_OVER, "points", "slower", arms="slowest answers (p99)",
            of_arms=_OF_ARMS_US, arm_unit="ms")),
    GateKind("disagreement", "disagreement of the arms", ("shadow",), compare=_disagreement,
        picture=Picture("disagreement of the arms, beyond that predicted", "points", "more",
            stops=True)),
    GateKind("utilisation", "load of all the traffic", ("shadow",), compare=_utilisation,
        picture=Picture("time of the pods for all of the traffic", "percent", "more")),
    GateKind("copies", "copies answered", ("shadow",),
        compare=lambda counts, _: copy_gate(counts)),
    GateKind("split", "split of customers", ("canary",)),
    GateKind("recall", "positives found", ("shadow", "canary", "champion"),
        picture=Picture("positives missed that the version before it found", "points", "fewer",
            arms="positives found",
            of_arms=("challenger_recall_value", "champion_recall_value"))),
    # For labels that are numbers or classes these replace recall, with recall's error.
    GateKind("error", "mean absolute error", ("shadow", "canary", "champion"),
        picture=Picture("mean absolute error beyond that of the version before it", "percent",
            "more", stops=True)),
    GateKind("accuracy", "right classes", ("shadow", "canary", "champion"),
        picture=Picture("wrong classes beyond those of the version before it", "points", "more",
            stops=True, arms="wrong classes")),
    GateKind("guardrail", "guardrail", ("champion",), picture=_FAILURES),
    GateKind("sample", "enough traffic", ("shadow", "canary")),
    GateKind("answers", "answers that count", ("shadow", "canary")),
    GateKind("log", "complete log", ("shadow", "canary", "champion")),
)  # fmt: skip
"""All gates of a rollout, in order. Texts and pictures of a gate come from here."""
