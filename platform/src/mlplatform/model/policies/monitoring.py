"""Limits of drift and retention of payloads, as model.yaml declares them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from mlplatform.model.policies.values import Count, ErrorShare, FieldName, Positive, Section


class Segment(Section, frozen=True):
    """Requests of which one input lies in [at_least, below); None does not bound."""

    name: FieldName
    input: str
    at_least: float | None = None
    below: float | None = None


class DriftPolicy(Section, frozen=True):
    """The limits beyond which traffic has drifted, and the reactions.

    Args:
        performance_false_alarm_share: chance of a false performance incident in 30 days, for all
            metrics together.
        performance_drop: share of its first recall or precision by which a champion may drop.
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
        payload_days: days of event time for which payloads are kept; `model.consistency` has the
            minimum.
    """

    payload_days: Annotated[int, Meta(ge=1, le=36_500)]
