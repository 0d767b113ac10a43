"""Models whose outcomes are classes: their model.yaml, and the choice of a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final

import msgspec
import numpy as np
from msgspec import Meta

from mlplatform.model.policies.calibration import held, held_many
from mlplatform.model.policies.decision_scale import (
    Decision,
    DecisionPolicy,
    DecisionScale,
    ThresholdPolicy,
)
from mlplatform.model.policies.neutral import NO_SMALL, NeutralGates, NeutralStop, NeutralTraining
from mlplatform.model.policies.rollout import RolloutPolicy
from mlplatform.model.policies.search import ClassSearch
from mlplatform.model.policies.segments import ClassFairness, ClassSegmentGates
from mlplatform.model.policies.values import Count, Positive, Share

MOST_CLASSES: Final = 100
MOST_TOP: Final = 5
"""Most classes in an answer and in its record, with their probabilities."""


class ClassProbability(msgspec.Struct, frozen=True):
    """One class and its probability, 0 to 1."""

    class_: str = msgspec.field(name="class")
    probability: float


class ClassChoice:
    """The function from probabilities by class to the most probable class; among equals, the first.
    What float32 rounds beyond 0 or 1 counts as that.

    Attributes:
        alerts: the classes that are alerts.
    """

    __slots__ = ("_scale", "alerts")

    def __init__(self, scale: DecisionScale) -> None:
        self._scale, self.alerts = scale, frozenset(scale.alerts)

    def outcome(self, probabilities: Sequence[float]) -> Decision:
        """The class that is decided."""
        return self._scale.names[self.place(probabilities)]

    def place(self, probabilities: Sequence[float]) -> int:
        """The place of the decided class among the classes."""
        return max(range(len(probabilities)), key=lambda place: held(probabilities[place]))

    def top(self, probabilities: Sequence[float], count: int) -> tuple[ClassProbability, ...]:
        """The most probable classes, most probable first; among equals in the order of the
        classes."""
        kept, names = [held(probability) for probability in probabilities], self._scale.names
        order = sorted(range(len(kept)), key=lambda place: -kept[place])
        return tuple(ClassProbability(names[i], kept[i]) for i in order[:count])

    def places(
        self, probabilities: np.ndarray[Any, Any], x: np.ndarray[Any, Any]
    ) -> np.ndarray[Any, Any]:
        """Places, from 0 in int8, of the decided classes of rows [n, classes].

        Args:
            x: the rows, by which no class is decided: a class has no thresholds.
        """
        if not len(probabilities):
            return np.zeros(0, np.int8)
        places: np.ndarray[Any, Any] = held_many(probabilities).argmax(axis=1).astype(np.int8)
        return places

    def alerting(
        self, probabilities: np.ndarray[Any, Any], x: np.ndarray[Any, Any]
    ) -> np.ndarray[Any, Any]:
        """Whether each row gets an alert."""
        return self._scale.alerting(self.places(probabilities, x))

    def certainty(self, probabilities: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The score of each row that records keep: the probability of the decided class."""
        return held_many(probabilities).max(axis=1) if len(probabilities) else np.zeros(0)


class ClassDecision(DecisionPolicy, frozen=True, kw_only=True):
    """The decision of a model of classes, which is the most probable class.

    Args:
        outcomes: the classes, in the order of the graph's probabilities.
        alerts: the classes that people look at; may be any of them, or none.
        safe: the outcome if nothing can decide.
        top: number of most probable classes that an answer lists with their probabilities.
    """

    by_class: ClassVar[bool] = True

    outcomes: Annotated[tuple[Decision, ...], Meta(min_length=2, max_length=MOST_CLASSES)]
    safe: Decision
    alerts: tuple[Decision, ...] = ()
    hides_outcome: tuple[Decision, ...] = ()
    thresholds: ThresholdPolicy = ThresholdPolicy()
    top: Annotated[int, Meta(ge=1, le=MOST_TOP)] = 3

    @property
    def alert_share(self) -> float:
        """0, because no share of alerts is planned."""
        return 0.0


class ClassGates(NeutralGates, frozen=True, kw_only=True):
    """The limits of a candidate of classes before it becomes a version.

    Args:
        accuracy_drop: largest tolerated loss of accuracy against the champion; the low end of the
            interval must be within it.
        accuracy_loss: a loss is refused if it is proven to be larger: if the high end is beyond
            this.
        minimum_accuracy: least accuracy of a first version, which the low end must reach.
        macro_f1_drop: largest tolerated loss of the mean F1 of all classes against the champion.
        minimum_macro_f1: least mean F1 of all classes of a first version.
        log_loss_rise: largest tolerated rise of the log loss against the champion; the high end of
            the interval must be within it.
        calibration_error: largest calibration error of the decided class's probability.
    """

    accuracy_drop: Share
    minimum_accuracy: Share
    macro_f1_drop: Share
    minimum_macro_f1: Share
    log_loss_rise: Positive
    accuracy_loss: Share = 0.01
    fairness: ClassFairness | None = None
    segments: ClassSegmentGates | None = None


class ClassTraining(NeutralTraining, frozen=True, kw_only=True):
    """The training data of a model of classes.

    Args:
        minimum_per_class: least number of labelled requests of each class in the window.
    """

    minimum_per_class: Count
    search: ClassSearch | None = None


class ClassStop(NeutralStop, frozen=True, kw_only=True, omit_defaults=False):
    """Harm limits for a challenger of classes: proof of more than this stops it, at any step.

    Args:
        disagreement: share of requests for which it decides another class than the champion, minus
            the predicted share.
        accuracy: share of labelled requests that it decides wrongly and the champion correctly,
            minus the share of the opposite case.
    """

    accuracy: Share


class ClassRollout(RolloutPolicy, frozen=True, kw_only=True):
    """The rollout of a challenger of classes: how it advances, and what stops it."""

    stop: ClassStop


_NO_SCORE: Final = "each outcome is a class, not a range of one score"
_IN_GROUPS: Final = "gates.fairness.accuracy_difference compares classes"
_NO_ALERTS: Final = "the platform plans no share of alerts for classes"
NOT_OF_CLASSES: Final[Mapping[str, str]] = {
    "decision.thresholds": _NO_SCORE,
    "decision.capacity": _NO_ALERTS,
    "decision.limit": _NO_ALERTS,
    "decision.hides_outcome": "a class stops no request",
    "exploration": "no class hides its outcome, so there is nothing to let through",
    "label.review": "analysts answer yes or no, not by a class",
    "ranking": "items are put in order by one score, and classes have one each",
    "training.minimum_positives": "a label is a class: minimum_per_class says how many of each",
    "training.small_model": NO_SMALL,
    "training.hidden_outcomes": "no class hides its outcome",
    "training.pseudo_label_precision": "no class hides its outcome",
    "gates.average_precision_drop": "accuracy_drop and macro_f1_drop compare classes",
    "gates.average_precision_loss": "accuracy_loss compares classes",
    "gates.minimum_average_precision": "minimum_accuracy and minimum_macro_f1 stand for it",
    "gates.single_input_average_precision": "it measures one score of two outcomes",
    "gates.small_model_lift": NO_SMALL,
    "gates.alert_share_minimum": _NO_ALERTS,
    "gates.alert_share_maximum": _NO_ALERTS,
    "gates.alert_band_factor": _NO_ALERTS,
    "gates.segments.average_precision_drop": "gates.segments.accuracy_drop compares classes",
    "gates.fairness.adverse": _IN_GROUPS,
    "gates.fairness.adverse_share_ratio": _IN_GROUPS,
    "gates.fairness.false_positive_ratio": _IN_GROUPS,
    "rollout.stop.alerts": _NO_ALERTS,
    "rollout.stop.recall": "accuracy compares classes",
    "rollout.stop.error": "accuracy compares classes",
    "rollout.confirm_recall_drop": "confirm_accuracy_drop compares classes",
    "rollout.confirm_error_rise": "confirm_accuracy_drop compares classes",
    "rollout.segments": "segments compare alerts",
    "rollout.shadow.tolerance.alerts": _NO_ALERTS,
    "rollout.canary.*.tolerance.alerts": _NO_ALERTS,
    "drift.segments": "segments watch recall and precision of alerts",
    "drift.calibration_drift": "only accuracy is watched",
}
"""Keys of model.yaml that a model of classes must not have, and why."""
