"""Keys about one score of two outcomes, for models without such a score, with values that refuse
nothing."""

from __future__ import annotations

from typing import Final

from mlplatform.model.policies.rollout import StopLimits
from mlplatform.model.policies.training import GatePolicy, SmallModelPolicy, TrainingPolicy
from mlplatform.model.policies.values import Count, Positive, Ratio, Share

NO_SMALL: Final = "the small model is a scorecard of two outcomes"
UNBOUNDED: Final = 1e9
"""Value of a limit that nothing reaches."""


class NeutralGates(GatePolicy, frozen=True, kw_only=True):
    """Limits of a candidate without a score of two outcomes, before it becomes a version."""

    average_precision_drop: Share = 1.0
    minimum_average_precision: Share = 0.0
    small_model_lift: Ratio = 1.0
    alert_share_minimum: Share = 0.0
    alert_share_maximum: Share = 1.0
    alert_band_factor: Ratio = 1.0


class NeutralTraining(TrainingPolicy, frozen=True, kw_only=True):
    """The training data of a model without a score of two outcomes."""

    minimum_positives: Count = 1
    small_model: SmallModelPolicy = SmallModelPolicy(inputs=1, bins=2)


class NeutralStop(StopLimits, frozen=True, kw_only=True, omit_defaults=False):
    """Harm limits for a challenger without a planned share of alerts."""

    alerts: Positive = UNBOUNDED
    recall: Share = 1.0
