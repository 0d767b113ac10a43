"""The report of a what-if: for each kind of decision, the figures that have a meaning there."""

from __future__ import annotations

import msgspec

from mlplatform.learning.validation.statistics import Interval


class Share(msgspec.Struct, frozen=True):
    """Requests of a kind, and the share (0-1) to expect of a coming day; None: fewer than two days
    or customers say nothing of that."""

    count: int
    share: float
    low: float | None = None
    high: float | None = None


class Segment(msgspec.Struct, frozen=True, omit_defaults=True):
    """Requests whose input lies in (above, upto], or is this value; None: no bound. With neither
    bound nor value, the input is missing.

    Args:
        reference_alerts, candidate_alerts: number of requests with an alert; None if neither bundle
            has alerts.
        mean_difference: mean difference of the numbers, candidate less reference; None if the model
            gives no numbers.
    """

    input: str
    above: float | None
    upto: float | None
    requests: int
    flips: int
    value: str | None = None
    reference_alerts: int | None = None
    candidate_alerts: int | None = None
    mean_difference: float | None = None


class ClassChange(msgspec.Struct, frozen=True):
    """Requests of one class that are of another one by the candidate, as a share (0-1) of all."""

    reference: str
    candidate: str
    requests: int
    share: float


class TopChanges(msgspec.Struct, frozen=True):
    """Requests of which another set of classes is the most probable one.

    Args:
        classes: number of classes in a set, as an answer lists them.
    """

    classes: int
    changed: Share


class NumberDifferences(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far the candidate's numbers lie from the reference's, in their unit.

    Args:
        lower, higher: number of requests whose number fell, or rose, by more than the tolerance.
        quantiles: name of a quantile → difference at it, smallest quantile first.
        without: number of requests for which a bundle gives no number.
    """

    unit: str
    tolerance: float
    mean: float
    mean_absolute: float
    lower: int
    higher: int
    quantiles: dict[str, float]
    without: int = 0


class PredictedDisagreement(msgspec.Struct, frozen=True, omit_defaults=True):
    """The disagreement that the gate is predicted to see in shadow, counted as it counts.

    Args:
        trials: number of requests that either bundle flags; for classes and numbers, all requests.
        count: number of trials that the bundles decide differently.
        share: share of the trials that count (0-1).
        low, high: range of that share to expect on one coming day, with 95 % confidence; None if
            there are fewer than two days or customers.
        stops: share above which a challenger is stopped.
        passes: share up to which shadow is passed; None if shadow has no such gate.
    """

    trials: int
    count: int
    share: float
    stops: float
    low: float | None = None
    high: float | None = None
    passes: float | None = None


class PositiveCounts(msgspec.Struct, frozen=True):
    """Positives that one bundle's own alerts find among requests whose outcome is known.

    Args:
        caught: number of positives among its alerts.
        at_capacity: number of positives among its highest scores, as many as people can look at.
    """

    alerts: int
    caught: int
    at_capacity: int


class LabelCounts(msgspec.Struct, frozen=True):
    """Figures by matured labels of two outcomes.

    Args:
        immature: number of requests that may still get a label.
        hidden: number of requests whose decision hid their outcome; they get no label.
        more, low, high: share (0-1) of the positives that the candidate finds more than the
            reference at the same capacity, with its bounds. Each bound is wrong with probability
            0.05, whatever the hidden outcomes were. None if there is no positive.
    """

    requests: int
    positives: int
    immature: int
    hidden: int
    capacity: float
    reference: PositiveCounts
    candidate: PositiveCounts
    more: float | None
    low: float | None
    high: float | None


class MeasureComparison(msgspec.Struct, frozen=True):
    """One measure of both bundles on the same requests, with 90 % intervals by customer; the
    difference is the candidate's less the reference's."""

    name: str
    reference: Interval
    candidate: Interval
    difference: Interval


class LabelMeasures(msgspec.Struct, frozen=True):
    """Figures by labels of classes or of numbers.

    Args:
        labelled: number of requests whose label is known.
        requests: number of those that are measured.
        immature: number of requests that may still get a label.
        unlabelled: number of requests that got no label in time.
        measures: measures of both bundles; empty if there is no labelled request.
    """

    labelled: int
    requests: int
    immature: int
    unlabelled: int
    measures: tuple[MeasureComparison, ...]


class WhatIf(msgspec.Struct, frozen=True, omit_defaults=True):
    """The two bundles side by side; None, and not in its JSON, is what has no meaning for what the
    model decides.

    Args:
        flips: share of requests that the bundles decide differently; for numbers, of those that
            differ by more than the tolerance.
        disagreement: prediction for the gate in shadow; None also if neither bundle flags a
            request.
        decisions: reference's outcome → candidate's outcome → number of requests; for ordered
            outcomes.
        changes: changes between classes, the largest first; for classes.
        both_alerts: number of requests on which both raise an alert.
        known: label counts, for models with two outcomes.
        measured: measures by labels, for classes and numbers.
    """

    requests: int
    customers: int
    from_ms: int
    to_ms: int
    flips: Share
    segments: tuple[Segment, ...]
    disagreement: PredictedDisagreement | None = None
    decisions: dict[str, dict[str, int]] | None = None
    changes: tuple[ClassChange, ...] | None = None
    top: TopChanges | None = None
    differences: NumberDifferences | None = None
    reference_alerts: Share | None = None
    candidate_alerts: Share | None = None
    both_alerts: int | None = None
    known: LabelCounts | None = None
    measured: LabelMeasures | None = None
