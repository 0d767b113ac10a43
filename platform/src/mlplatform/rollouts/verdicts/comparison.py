"""Gates that compare a challenger with the champion of the same window.

Each has a limit and, at each step, a tolerance. It is UNHEALTHY as soon as more than the limit is
proven against the challenger, HEALTHY as soon as no more than the tolerance is left open, else
INCONCLUSIVE: no data, or too little, shows nothing. The bounds hold at every look (`statistics`).

In shadow both arms answered identical requests and are compared pair by pair; in canary customers
were split at random.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

from mlplatform.model.policies.rollout import StopLimits, Tolerance
from mlplatform.model.policies.segments import SegmentLimits
from mlplatform.rollouts.verdicts.aggregates import Aggregates
from mlplatform.rollouts.verdicts.speed import latency_gate, utilisation_gate
from mlplatform.rollouts.verdicts.statistics import ClusterSums, share_difference
from mlplatform.rollouts.verdicts.verdict import (
    Bound,
    Errors,
    Gate,
    Harm,
    bounded,
    difference_values,
    in_percent,
    number_of,
    of_all,
    points,
    rounded,
    sure,
)
from mlplatform.runtime.figures import percent

STARVING = 5.0
"""A challenger that starves the champion of a machine makes both fail: failures beyond this many
times the limit stop it, though the champion fails as often."""
UNCOPIED_SHARE = 0.1
"""Of the champion's decisions, those that may be without a copy: of which, nobody chose."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What replaying recent requests through both bundles predicted.

    Args:
        alert_ratio: the challenger's share of alerts over the champion's.
        alert_share: the challenger's, of all requests; None: its report does not say.
        replayed: whether both versions were; where not, the other numbers are those of arms that
            decide alike, and a disagreement proves nothing.
        disagreement: of the requests on which either arm raises an alert, the share on which only
            one does.
    """

    alert_ratio: float
    disagreement: float
    alert_share: float | None = None
    replayed: bool = True


ALIKE = Prediction(alert_ratio=1.0, disagreement=0.0, replayed=False)
"""Where nothing was predicted for this pair of versions, they are to raise as many alerts."""


@dataclass(frozen=True, slots=True)
class SegmentStep:
    """What a step asks of one segment.

    Args:
        errors: of each of its gates; all segments together share out those of one gate.
        predicted: of the segment's own requests, where they were replayed, else of all.
        holds: whether the step waits until the segment has shown its tolerance.
    """

    name: str
    stop: SegmentLimits
    tolerance: SegmentLimits
    errors: Errors
    predicted: Prediction
    holds: bool


def failure_gate(seen: Aggregates, bound: Bound, errors: Errors) -> Gate:
    """Requests that the challenger failed to answer in time, against the champion's.

    Failures are clustered by customer and day, and by outage, whichever leaves more open. The
    champion's are those of the time that a challenger is given: one pause of a machine is not the
    failure of the arm that is waited for less.
    """
    views = seen.failures
    found = share_difference(views, stop_error=errors.stop, pass_error=errors.missed)
    days = views[0]
    alone = share_difference(views, stop_error=errors.stop, pass_error=errors.missed, ratio=0.0)
    if not found.trials or math.isnan(found.value):
        reason = "Nothing can be told yet: both arms have to have had a request."
        return Gate("failures", bound.verdict(math.nan, math.nan), reason, {})
    figures = (
        "Not answered in time: "
        f"{of_all(days.challenger_hits, days.challenger_trials, 'requests')}; of the champion's, "
        f"within the same time, {of_all(days.champion_hits, days.champion_trials, 'requests')}."
    )
    if alone.stop_low > STARVING * bound.limit:
        reason = (
            f"It fails to answer at least {in_percent(alone.stop_low)} of its requests in time "
            f"({sure(errors.stop)}). {figures} "
            f"However the champion fares, the limit is {in_percent(STARVING * bound.limit)}."
        )
        values = difference_values(alone) | {"proven": number_of(alone.stop_low)}
        return Gate("failures", "UNHEALTHY", reason, values)
    most, than = points(min(max(found.pass_high, 0.0), 1.0)), "of its requests in time"
    harm = Harm(
        proven=f"It answers at least {points(found.stop_low)} fewer {than} than the champion",
        excluded=(
            f"It answers no more than {most} fewer {than} than the champion"
            if found.pass_high > 0
            else f"It answers no fewer {than} than the champion"
        ),
        still_open=f"It may answer up to {most} fewer {than} than the champion",
        figures=figures,
        stop_low=found.stop_low,
        pass_high=found.pass_high,
        unit=points,
    )
    return bounded("failures", harm, bound, errors, difference_values(found))


def alert_gate(
    view: ClusterSums, bound: Bound, errors: Errors, predicted: Prediction, *, name: str = "alerts"
) -> Gate:
    """The challenger's alerts against those expected of it, as a share of the expected ones.

    Both too many and too few are harm: people have no time for the first, and the others are missed
    positives. Expected are the champion's of the same window, by the predicted ratio,
    and the predicted share of all requests: traffic that moves moves the first with it, a champion
    that drifts away leaves the second. Only what deviates from both is harm.
    """
    deviations = [
        found
        for found in (
            _deviation(view, errors, predicted.alert_ratio, None),
            _deviation(view, errors, 0.0, predicted.alert_share),
        )
        if found is not None
    ]
    raised, answers = view.challenger_hits, view.challenger_trials
    theirs, others = view.champion_hits, view.champion_trials
    if not deviations:
        reason = (
            "Nothing can be told yet: no alert is expected. "
            f"It flagged {of_all(raised, answers, 'requests')}; the champion flagged "
            f"{of_all(theirs, others, 'requests')}."
        )
        return Gate(name, bound.verdict(math.nan, math.nan), reason, {"trials": answers})
    more = min(found.more for found in deviations)
    fewer = min(found.fewer for found in deviations)
    stop_low = max(more, fewer)
    nearest = min(deviations, key=lambda found: found.left_open)
    figures = (
        f"It flagged {of_all(raised, answers, 'requests')}; {percent(nearest.expected)} was "
        f"expected. The champion flagged {of_all(theirs, others, 'requests')}."
    )
    low, high = _change(nearest.low), _change(nearest.high)
    some = nearest.low > -1  # else there may be none
    values: dict[str, float | int | None] = {
        "share": number_of(nearest.value), "low": number_of(nearest.low),
        "high": number_of(nearest.high), "challenger": number_of(raised / answers),
        "champion": number_of(theirs / others) if others else None,
        "expected": number_of(nearest.expected), "trials": answers,
    }  # fmt: skip
    proven = _change(-stop_low) if fewer > more else _change(stop_low)
    harm = Harm(
        proven=f"Its alerts are at least {proven} those expected",
        excluded=(
            f"Its alerts lie between {low} and {high} those expected"
            if some
            else f"Its alerts are at most {high} those expected"
        ),
        still_open=(
            f"Its alerts may lie anywhere between {low} and {high} those expected"
            if some
            else f"Its alerts may be anything up to {high} those expected"
        ),
        figures=figures,
        stop_low=stop_low,
        pass_high=nearest.left_open,
        unit=lambda share: f"{in_percent(share)} above or below",
    )
    return bounded(name, harm, bound, errors, values)


@dataclass(frozen=True, slots=True)
class _Deviation:
    """From one expectation, as a share of it.

    Args:
        more, fewer: that it deviates at least so far, to either side.
        low, high: where it may lie.
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
    view: ClusterSums, errors: Errors, ratio: float, share: float | None
) -> _Deviation | None:
    """From the champion's share times the ratio, or from a share; None where none is expected."""
    if share is None and not ratio:
        return None
    found = share_difference(
        [view], stop_error=errors.stop / 2, pass_error=errors.missed / 2, ratio=ratio
    )
    expected = found.expected if share is None else share
    if not expected > 0 or not found.trials:
        return None
    moved = found.expected - expected
    return _Deviation(
        expected=expected,
        value=(found.value + moved) / expected,
        more=(found.stop_low + moved) / expected,
        fewer=(-found.stop_high - moved) / expected,
        low=(found.pass_low + moved) / expected,
        high=(found.pass_high + moved) / expected,
    )


def disagreement_gate(
    view: ClusterSums,
    bound: Bound,
    errors: Errors,
    predicted: Prediction,
    *,
    name: str = "disagreement",
) -> Gate:
    """Of requests on which either arm raised an alert, those on which only one did, in shadow."""
    if not predicted.replayed:
        reason = (
            "Nothing can be told: this pair of versions was never replayed. "
            "Validate the version again."
        )
        return Gate(name, bound.verdict(math.nan, math.nan), reason, {})
    only, either = view.challenger_hits, view.challenger_trials
    if not either:
        reason = "Nothing can be told yet: no arm has flagged a request that both decided."
        return Gate(name, bound.verdict(math.nan, math.nan), reason, {})
    found = share_difference([view], stop_error=errors.stop, pass_error=errors.missed, ratio=0.0)
    figures = (
        f"One arm alone flagged {only:,} of the {either:,} requests that either flagged "
        f"({percent(found.challenger)}); replay predicted {percent(predicted.disagreement)}."
    )
    excess_low, excess_high = (
        found.stop_low - predicted.disagreement,
        found.pass_high - predicted.disagreement,
    )
    most = points(min(max(excess_high, 0.0), 1 - predicted.disagreement))
    values = {
        "share": number_of(found.challenger - predicted.disagreement),
        "low": number_of(found.pass_low - predicted.disagreement),
        "high": number_of(excess_high),
        "payments": either,
    }
    harm = Harm(
        proven=f"The arms disagree on alerts by at least {points(excess_low)} more than predicted",
        excluded=f"The arms disagree on alerts by no more than {most} more than predicted",
        still_open=f"The arms may disagree on alerts by up to {most} more than predicted",
        figures=figures,
        stop_low=excess_low,
        pass_high=excess_high,
        unit=points,
    )
    return bounded(name, harm, bound, errors, values)


def segment_gates(
    seen: Aggregates, asked: tuple[SegmentStep, ...], *, in_canary: bool
) -> Iterator[Gate]:
    """Each segment's requests by themselves: pair by pair in shadow, between arms in canary.

    A segment with few alerts shows nothing: it is reported, and never healthy.
    """
    for step in asked:
        alerts, one_sided = seen.segment(step.name)
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
                disagreement_gate(one_sided, bounds[1], step.errors, step.predicted, name=name)
            )
        for gate in found:
            reason = f"In segment {step.name}: {gate.reason[0].lower()}{gate.reason[1:]}"
            yield dataclasses.replace(gate, reason=reason, holds=step.holds)


def copy_gate(seen: Aggregates) -> list[Gate]:
    """Nothing is shown where too many requests were never put to the challenger."""
    copies, missing = seen.count("requests"), seen.uncopied
    if missing <= UNCOPIED_SHARE * (copies + missing):
        return []
    reason = (
        "Too many requests were never put to the challenger: "
        f"{of_all(missing, copies + missing, 'copies')} were dropped. "
        f"Allowed: {in_percent(UNCOPIED_SHARE)}."
    )
    return [Gate("copies", "INCONCLUSIVE", reason, {"copies": copies, "missing": missing})]


def comparisons(
    seen: Aggregates,
    stop: StopLimits,
    tolerance: Tolerance,
    errors: Errors,
    *,
    failure_share: float,
    predicted: Prediction,
    pods: int,
    in_canary: bool,
    segments: tuple[SegmentStep, ...] = (),
    immaterial_us: float = 0.0,
) -> list[Gate]:
    """Every comparison that a step asks for.

    Args:
        immaterial_us: by how much latency may be higher without harm.
    """
    failures = Bound(failure_share, tolerance.failures)
    alerts = Bound(stop.alerts, tolerance.alerts)
    found = [
        failure_gate(seen, failures, errors),
        alert_gate(seen.alerts, alerts, errors, predicted),
        *segment_gates(seen, segments, in_canary=in_canary),
    ]
    if in_canary:
        quantiles = ((0.5, stop.latency_p50, tolerance.latency_p50),
                     (0.99, stop.latency_p99, tolerance.latency_p99))  # fmt: skip
        return found + [
            latency_gate(seen, q, Bound(s, t), errors, immaterial_us=immaterial_us)
            for q, s, t in quantiles
        ]
    disagreement = Bound(stop.disagreement, tolerance.disagreement)
    utilisation = Bound(stop.utilisation, stop.utilisation)
    return [
        *found,
        disagreement_gate(seen.one_sided, disagreement, errors, predicted),
        utilisation_gate(seen, utilisation, errors, pods),
        *copy_gate(seen),
    ]


def _change(share: float) -> str:
    """How far above or below; from twice as many on, how many times."""
    if share >= 1:
        return f"{rounded(1 + share)} times"
    return f"{in_percent(-share)} below" if share < 0 else f"{in_percent(share)} above"
