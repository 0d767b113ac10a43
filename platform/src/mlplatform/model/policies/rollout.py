"""How a challenger goes on, and what stops it, as model.yaml declares it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mlplatform.model.policies.decision_scale import Task
from mlplatform.model.policies.segments import SegmentPolicy
from mlplatform.model.policies.values import (
    Count,
    ErrorShare,
    Positive,
    Ratio,
    Section,
    Share,
    Text,
)


class StopLimits(Section, frozen=True, omit_defaults=True):
    """A challenger of which more than this is proven is stopped, at any step.

    Args:
        alerts: more or fewer alerts than predicted, as a share of the predicted ones.
        disagreement: of requests with an alert of either arm, the share on which only one raised
            it, beyond what was predicted.
        latency_p50, latency_p99: over the champion's.
        utilisation: share of the time that a pod would compute with all of the traffic.
        recall: of the positives that matured labels tell, the share that it finds less than the
            champion at as many alerts.
        accuracy: of a model of classes alone (`policies.classes`).
        error: of a model of numbers alone (`policies.real`).
    """

    alerts: Positive
    disagreement: Positive
    latency_p50: Ratio
    latency_p99: Ratio
    utilisation: Annotated[float, Meta(gt=0, le=1)]
    recall: Share
    accuracy: Share | None = None
    error: Positive | None = None

    @property
    def task(self) -> Task:
        """The task of the models whose versions these are the limits."""
        if self.accuracy is not None:
            return "classes"
        return "binary" if self.error is None else "real"


class Tolerance(Section, frozen=True):
    """A step is passed once no more than this is left open; what is left out is not asked there.

    Args:
        failures: more failures than the champion's, as a share of all requests.
        alerts, disagreement, latency_p50, latency_p99: as in `StopLimits`.
    """

    failures: Share
    alerts: Positive | None = None
    disagreement: Positive | None = None
    latency_p50: Ratio | None = None
    latency_p99: Ratio | None = None


class ShadowStep(Section, frozen=True):
    minimum_units: Count
    minimum_requests: Count
    deadline_h: Positive
    tolerance: Tolerance


class CanaryStep(Section, frozen=True):
    percent: float
    minimum_units: Count
    deadline_h: Positive
    tolerance: Tolerance


class FreezeWindow(Section, frozen=True):
    """A time in which no rollout moves forward: once, or each week.

    Args:
        start, end: `from` and `to` in model.yaml, as `model.freeze_times` reads them; both dates or
            both weekdays. A date alone as the end is that whole day.
    """

    start: str = msgspec.field(name="from")
    end: str = msgspec.field(name="to")
    reason: Text


class FreezePolicy(Section, frozen=True):
    """When no rollout moves forward.

    Args:
        time_zone: of all windows, as IANA names it.
    """

    windows: Annotated[tuple[FreezeWindow, ...], Meta(max_length=100)]
    time_zone: str = "UTC"


class RolloutPolicy(Section, frozen=True):
    approval: Literal["required", "none"]
    false_alarm_share: ErrorShare
    missed_harm_share: ErrorShare
    failure_share_limit: Share
    guardrail_minimum_failures: Count
    stop: StopLimits
    shadow: ShadowStep
    canary: tuple[CanaryStep, ...]
    approval_deadline_h: Positive
    deploy_wall_deadline_s: Positive
    step_wall_deadline_s: Positive
    confirm_after_days: Count
    confirm_recall_drop: Share | None = None
    confirm_accuracy_drop: Share | None = None
    """Of a model of classes alone."""
    confirm_error_rise: Positive | None = None
    """Of a model of numbers alone."""
    freeze: FreezePolicy | None = None
    segments: SegmentPolicy | None = None

    @property
    def by_labels(self) -> tuple[float, float | None]:
        """Limits by matured labels: beyond how much harm a challenger is stopped, and within how
        much it is confirmed: of positives found, of right classes, or of errors."""
        stop = self.stop
        if stop.accuracy is not None:
            return stop.accuracy, self.confirm_accuracy_drop
        if stop.error is not None:
            return stop.error, self.confirm_error_rise
        return stop.recall, self.confirm_recall_drop
