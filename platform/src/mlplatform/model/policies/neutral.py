"""Keys about one score of two outcomes, for models that have no such score: values that refuse
nothing. `refused_keys` keeps them out of model.yaml; they are encoded as all keys are."""

from __future__ import annotations

from typing import Final

from mlplatform.model.policies.rollout import StopLimits
from mlplatform.model.policies.training import GatePolicy, SmallModelPolicy, TrainingPolicy
from mlplatform.model.policies.values import Count, Positive, Ratio, Share

UNBOUNDED: Final = 1e9
"""Of a limit that nothing reaches."""


class NeutralGates(GatePolicy, frozen=True, kw_only=True):
    """What a candidate without a score of two outcomes is held to before it is a version."""

    average_precision_drop: Share = 1.0
    minimum_average_precision: Share = 0.0
    small_model_lift: Ratio = 1.0
    alert_share_minimum: Share = 0.0
    alert_share_maximum: Share = 1.0
    alert_band_factor: Ratio = 1.0


class NeutralTraining(TrainingPolicy, frozen=True, kw_only=True):
    """What a model without a score of two outcomes learns from."""

    minimum_positives: Count = 1
    small_model: SmallModelPolicy = SmallModelPolicy(inputs=1, bins=2)


class NeutralStop(StopLimits, frozen=True, kw_only=True, omit_defaults=False):
    """What stops a challenger that plans no share of alerts."""

    alerts: Positive = UNBOUNDED
    recall: Share = 1.0
