"""Limits of drift and retention of payloads, as model.yaml declares them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from mlplatform.model.policies.values import Count, ErrorShare, FieldName, Positive, Section


class Segment(Section, frozen=True):
    """Requests of which one input lies in [at_least, below); None does not bound.

    Args:
        name: name of the segment, which no other segment has.
        input: name of the input, which is a number.
        at_least: least value in the segment; None: no least one.
        below: value below which the segment ends; None: no end.
    """

    name: FieldName
    input: str
    at_least: float | None = None
    below: float | None = None


class DriftPolicy(Section, frozen=True):
    """The limits beyond which traffic has drifted, and the reactions.

    Args:
        window_h: hours of event time in one window.
        windows: number of newest windows that are compared.
        drifted_windows: number of those windows that must have drifted before an incident is
            opened.
        minimum_rows: least number of requests in a window; a window with fewer shows nothing.
        false_alarm_share: chance that a window without drift counts as drifted.
        psi: population stability index (PSI) beyond which an input has drifted.
        wasserstein: Wasserstein distance beyond which an input has drifted, in standard deviations
            of its profile.
        inputs: names of the inputs that are compared with their profiles.
        matured_positives: positives since the change whose labels have matured, before a retrain;
            of classes and numbers, labels.
        claim_s: seconds for which one retrain holds an incident, before another may take it over.
        page_after_days: days after which a person is called, if an incident still has too few
            labels for a retrain.
        performance_false_alarm_share: chance of a false performance incident in 30 days, for all
            metrics together.
        performance_drop: share of its first recall or precision by which a champion may drop; of
            classes, of its accuracy; of numbers, the share by which its error may rise.
        calibration_drift: share by which the ratio of positives to expected positives may change.
        segments: segments whose recall and precision are watched, besides those of all requests.
        retrain_cooldown_days: least wall time between the retrains of two incidents, in days.
        retrain_budget: largest number of retrains in 30 days; beyond it a person decides.
    """

    window_h: Annotated[int, Meta(ge=1, le=24 * 366)]
    windows: Annotated[int, Meta(ge=1, le=366)]
    drifted_windows: Count
    minimum_rows: Count
    false_alarm_share: ErrorShare
    psi: Positive
    wasserstein: Positive
    inputs: tuple[str, ...]
    matured_positives: Count
    claim_s: Count
    page_after_days: Count
    performance_false_alarm_share: ErrorShare = 0.03
    performance_drop: Annotated[float, Meta(ge=0, lt=1)] = 0.05
    calibration_drift: Positive = 0.5
    segments: tuple[Segment, ...] = ()
    retrain_cooldown_days: Annotated[int, Meta(ge=1, le=366)] = 7
    retrain_budget: Count = 4


class RetentionPolicy(Section, frozen=True):
    """How long the decision log keeps payloads: request, features and reasons.

    Args:
        payload_days: days of event time for which payloads are kept, at least as long as the
            platform itself reads them.
    """

    payload_days: Annotated[int, Meta(ge=1, le=36_500)]
