"""Models whose labels are numbers: the declarations of their model.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

from msgspec import Meta

from mlplatform.model.policies.decision_scale import (
    MOST_DECISIONS,
    Decision,
    DecisionPolicy,
    DecisionScale,
    PartShare,
    Quantity,
    ThresholdPolicy,
)
from mlplatform.model.policies.neutral import NO_SMALL, NeutralGates, NeutralStop, NeutralTraining
from mlplatform.model.policies.rollout import RolloutPolicy
from mlplatform.model.policies.search import NumberSearch
from mlplatform.model.policies.segments import NumberFairness, NumberSegmentGates
from mlplatform.model.policies.values import Count, Positive, Share

NO_DECISION: Final = "none"
"""The outcome of a model that gives only its number."""


class NumberThresholds(ThresholdPolicy, frozen=True):
    """The number from which on each outcome but the first is given.

    Args:
        scores: outcome → number at which it begins, in the model's unit; the numbers rise.
    """

    scores: dict[Decision, float] | None = None


class RealDecision(DecisionPolicy, frozen=True, kw_only=True):
    """The number that the model gives, and the outcomes that follow from it, if any.

    Args:
        number: the number that the model gives: its unit and range.
        outcomes: names of the outcomes, from the lowest number to the highest; left out, the model
            gives only its number.
        alerts: the outcomes that are alerts: the last of `outcomes`, or none.
        safe: the outcome, without a number, if nothing can decide.
    """

    number: Quantity
    outcomes: Annotated[tuple[Decision, ...], Meta(min_length=1, max_length=MOST_DECISIONS)] = (
        NO_DECISION,
    )
    safe: Decision = NO_DECISION
    alerts: tuple[Decision, ...] = ()
    hides_outcome: tuple[Decision, ...] = ()
    thresholds: NumberThresholds = NumberThresholds()

    @property
    def scale(self) -> DecisionScale:
        """The outcomes and alerts, as a bundle carries them, with the number's unit and range."""
        return DecisionScale(self.outcomes, self.alerts, number=self.number)

    @property
    def alert_share(self) -> float:
        """0, because no share of alerts is planned."""
        return 0.0


class RealGates(NeutralGates, frozen=True, kw_only=True):
    """The limits of a candidate of numbers before it becomes a version.

    Rises are shares of the champion's own, on the same requests.

    Args:
        mae_rise: largest tolerated rise of the mean absolute error; the high end of the interval
            must be within it.
        mae_loss: a rise is refused if it is proven to be larger: if the low end is beyond this.
        maximum_mae: largest mean absolute error of a first version, in the number's unit; the high
            end must be within it.
        rmse_rise: the same as `mae_rise`, for the root mean square error.
        maximum_bias: largest mean of numbers minus labels, in the unit, in either direction; a bias
            that is proven to be larger is refused.
        quantile: the quantile of the labels at which the quantile loss is least.
        quantile_loss_rise: the same as `mae_rise`, for the quantile loss.
        onnx_difference: largest difference between both forms of a model, as a share of the number,
            or of the usual size of the numbers.
        decision_flip_share: largest share of requests whose number changes by more than the
            tolerance.
    """

    mae_rise: Share
    maximum_mae: Positive
    rmse_rise: Share
    maximum_bias: Positive
    quantile_loss_rise: Share
    quantile: PartShare = 0.5
    mae_loss: Share = 0.01
    calibration_error: Share = 1.0
    fairness: NumberFairness | None = None
    segments: NumberSegmentGates | None = None


class RealTraining(NeutralTraining, frozen=True, kw_only=True):
    """The training data of a model of numbers.

    Args:
        minimum_labelled: least number of requests in the window whose number is known.
    """

    minimum_labelled: Count
    search: NumberSearch | None = None


class RealStop(NeutralStop, frozen=True, kw_only=True, omit_defaults=False):
    """Harm limits for a challenger of numbers: proof of more than this stops it, at any step.

    Args:
        disagreement: share of requests whose number differs from the champion's by more than the
            tolerance, minus the predicted share.
        error: rise of the mean absolute error on labelled requests, as a share of the champion's
            error on the same requests.
    """

    error: Positive


class RealRollout(RolloutPolicy, frozen=True, kw_only=True):
    """The rollout of a challenger of numbers: how it advances, and what stops it."""

    stop: RealStop


_NO_PROBABILITY: Final = "a number is not a probability"
_IN_GROUPS: Final = "mae_ratio and bias_difference compare numbers"
_NO_ALERTS: Final = "the platform plans no share of alerts for numbers"
_BY_NUMBER: Final = "thresholds.scores says from which number on each outcome is given"
_UNKNOWN: Final = "a request without a label is unknown, whatever was decided"
_BY_ERROR: Final = "mae_rise, rmse_rise and quantile_loss_rise compare numbers"
NOT_OF_NUMBERS: Final[Mapping[str, str]] = {
    "decision.thresholds.shares": _BY_NUMBER,
    "decision.thresholds.costs": _BY_NUMBER,
    "decision.thresholds.currency": _BY_NUMBER,
    "decision.thresholds.segments": "only thresholds of two outcomes have segments",
    "decision.capacity": _NO_ALERTS,
    "decision.limit": _NO_ALERTS,
    "decision.hides_outcome": _UNKNOWN,
    "exploration": "no outcome is hidden, so there is nothing to let through",
    "label.review": "analysts answer yes or no, not by a number",
    "ranking": "items are put in order by a probability, whose labels are 0 and 1",
    "training.minimum_positives": "a label is a number: minimum_labelled says how many of them",
    "training.small_model": NO_SMALL,
    "training.hidden_outcomes": _UNKNOWN,
    "training.pseudo_label_precision": _UNKNOWN,
    "training.class_weight": "labels are numbers, not classes",
    "gates.average_precision_drop": _BY_ERROR,
    "gates.average_precision_loss": "mae_loss compares numbers",
    "gates.minimum_average_precision": "maximum_mae stands for it",
    "gates.single_input_average_precision": "it measures one score of two outcomes",
    "gates.small_model_lift": NO_SMALL,
    "gates.calibration_error": f"{_NO_PROBABILITY}: maximum_bias bounds its mean error",
    "gates.alert_share_minimum": _NO_ALERTS,
    "gates.alert_share_maximum": _NO_ALERTS,
    "gates.alert_band_factor": _NO_ALERTS,
    "gates.segments.average_precision_drop": "gates.segments.mae_rise compares numbers",
    "gates.fairness.adverse": _IN_GROUPS,
    "gates.fairness.adverse_share_ratio": _IN_GROUPS,
    "gates.fairness.false_positive_ratio": _IN_GROUPS,
    "rollout.stop.alerts": _NO_ALERTS,
    "rollout.stop.recall": "error compares numbers",
    "rollout.stop.accuracy": "error compares numbers",
    "rollout.confirm_recall_drop": "confirm_error_rise compares numbers",
    "rollout.confirm_accuracy_drop": "confirm_error_rise compares numbers",
    "rollout.segments": "segments compare alerts",
    "rollout.shadow.tolerance.alerts": _NO_ALERTS,
    "rollout.canary.*.tolerance.alerts": _NO_ALERTS,
    "drift.segments": "segments watch recall and precision of alerts",
    "drift.calibration_drift": _NO_PROBABILITY,
}
"""Keys of model.yaml that a model of numbers must not have, and why."""
