"""What a what-if tells: of each kind of decision what has a meaning there, and nothing else."""

from __future__ import annotations

import msgspec

from mlplatform.learning.validation.statistics import Interval


class _Counts(msgspec.Struct, frozen=True, rename={"requests": "payments", "positives": "frauds"}):
    """Counts, by the keys that their JSON has."""


class Share(_Counts, frozen=True):
    """Requests of a kind, and the share (0-1) to expect of a coming day; None: fewer than two days
    or customers say nothing of that."""

    count: int
    share: float
    low: float | None = None
    high: float | None = None


class Segment(_Counts, frozen=True, omit_defaults=True):
    """Requests whose input lies in (above, upto], or is this value; None: no bound. Neither bound
    nor value: it is missing.

    Args:
        reference_alerts, candidate_alerts: None where neither bundle has alerts.
        mean_difference: of numbers, the candidate's less the reference's.
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


class ClassChange(_Counts, frozen=True):
    """Requests of one class that are of another one by the candidate, as a share (0-1) of all."""

    reference: str
    candidate: str
    requests: int
    share: float


class TopChanges(msgspec.Struct, frozen=True):
    """Requests of which another set of classes is the most probable one.

    Args:
        classes: in a set, as an answer holds them.
    """

    classes: int
    changed: Share


class NumberDifferences(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far the candidate's numbers lie from the reference's, in their unit.

    Args:
        lower, higher: requests whose number moved there by more than the tolerance.
        quantiles: of the differences, by name, the smallest first.
        without: requests of which either bundle gives no number.
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
    """What the gate on disagreement is to see in shadow, as it counts.

    Args:
        trials: requests that either bundle flags; of classes and numbers all. count: those that one
            bundle alone flags, or that are decided otherwise.
        share: of the trials (0-1). low, high: to expect of a coming day.
        stops: the share beyond which a challenger is stopped. passes: up to which shadow is passed;
            None: shadow does not ask.
    """

    trials: int
    count: int
    share: float
    stops: float
    low: float | None = None
    high: float | None = None
    passes: float | None = None


class PositiveCounts(_Counts, frozen=True):
    """What one bundle's own alerts find among requests of which the outcome is known.

    Args:
        caught: positives among its alerts. at_capacity: positives among as many of its highest
            scores as people can look at.
    """

    alerts: int
    caught: int
    at_capacity: int


class LabelCounts(_Counts, frozen=True):
    """What matured labels of two outcomes say.

    Args:
        immature: requests that may still get a label. hidden: those whose decision hid their
            outcome, which get none.
        more, low, high: share (0-1) of the positives that the candidate finds more at capacity,
            with bounds that are wrong with probability .05 each, whatever the hidden ones were;
            None: no positive.
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
    """What labels of classes or of numbers say.

    Args:
        labelled: requests whose label is known. requests: those of them that are measured.
        immature: requests that may still get a label. unlabelled: those that got none in time.
        measures: empty without a labelled request.
    """

    labelled: int
    requests: int
    immature: int
    unlabelled: int
    measures: tuple[MeasureComparison, ...]


class WhatIf(_Counts, frozen=True, omit_defaults=True):
    """The two bundles side by side; None, and not in its JSON, is what has no meaning for what the
    model decides.

    Args:
        flips: requests that are decided otherwise; of numbers, those that moved by more than the
            tolerance.
        disagreement: None too where neither bundle flags a request.
        decisions: of outcomes in an order, requests by the reference's, then by the candidate's.
        changes: of classes, the largest change first.
        both_alerts: requests on which both raise an alert.
        known: of two outcomes. measured: of classes and of numbers.
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
