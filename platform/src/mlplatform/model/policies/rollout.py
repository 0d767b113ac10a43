"""The rollout of a challenger, as model.yaml declares it: how it advances, and what stops it."""

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
    """Harm limits for a challenger: proof of more than this stops it, at any step.

    Args:
        alerts: how many alerts more or fewer than predicted, as a share of the predicted number.
        disagreement: share of the requests with an alert of either arm that the arms decide
            differently, minus the predicted share.
        latency_p50: median of the latency, divided by the champion's.
        latency_p99: 99th percentile of the latency, divided by the champion's.
        utilisation: share of the time for which a pod would compute if it had all of the traffic.
        recall: share of the positives among matured labels that it misses and the champion finds,
            if both raise equally many alerts.
        accuracy: limit for models of classes only.
        error: limit for models of numbers only.
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
        """The task of the models to whose versions these limits apply."""
        if self.accuracy is not None:
            return "classes"
        return "binary" if self.error is None else "real"


class Tolerance(Section, frozen=True):
    """Harm that a step tolerates: the step passes once no more is left open. A tolerance that is
    left out is not checked.

    Args:
        failures: how many failures more than the champion's, as a share of all requests.
        alerts, disagreement, latency_p50, latency_p99: the same quantity as in `rollout.stop`,
            which is at most this; None: not checked.
    """

    failures: Share
    alerts: Positive | None = None
    disagreement: Positive | None = None
    latency_p50: Ratio | None = None
    latency_p99: Ratio | None = None


class ShadowStep(Section, frozen=True):
    """The step in which a challenger scores copies of the requests, and nobody gets its answers.

    Args:
        minimum_units: least number of units of assignment, such as customers, before the step may
            pass.
        minimum_requests: least number of requests before the step may pass.
        deadline_h: hours of event time after which a step that has not passed rolls back.
        tolerance: the harm that the step tolerates.
        minimum_h: hours of event time that the step lasts at least, however soon its sample shows
            enough; None: no time of its own.
    """

    minimum_units: Count
    minimum_requests: Count
    deadline_h: Positive
    tolerance: Tolerance
    minimum_h: Positive | None = None


class CanaryStep(Section, frozen=True):
    """One step in which a challenger answers a share of the customers.

    Args:
        percent: percent of the units of assignment that the challenger answers, more than 0 and at
            most 100; it rises with each step.
        minimum_units: least number of units of assignment that the challenger answers before the
            step may pass.
        deadline_h: hours of event time after which a step that has not passed rolls back.
        tolerance: the harm that the step tolerates.
        minimum_h: hours of event time that the step lasts at least, however soon its sample shows
            enough; None: no time of its own.
    """

    percent: float
    minimum_units: Count
    deadline_h: Positive
    tolerance: Tolerance
    minimum_h: Positive | None = None


class FreezeWindow(Section, frozen=True):
    """A window in which no rollout moves forward: once, or each week.

    Args:
        start: `from` in model.yaml: a date (2026-12-20), a date with a time (2026-12-20 16:00), or
            a weekday with a time (Fri 16:00).
        end: `to` in model.yaml, in the same form as the start; an end that is only a date includes
            that whole day.
        reason: why nothing moves forward, for people who wait.
    """

    start: str = msgspec.field(name="from")
    end: str = msgspec.field(name="to")
    reason: Text


class FreezePolicy(Section, frozen=True):
    """The windows in which no rollout moves forward.

    Args:
        windows: the windows.
        time_zone: IANA name of the time zone of all windows.
    """

    windows: Annotated[tuple[FreezeWindow, ...], Meta(max_length=100)]
    time_zone: str = "UTC"


class RolloutPolicy(Section, frozen=True):
    """The rollout of a challenger: how it advances, and what stops it.

    Args:
        approval: whether a challenger needs a person's approval after shadow.
        false_alarm_share: chance that a whole rollout stops a challenger that is as good as the
            champion.
        missed_harm_share: chance that a step passes a challenger whose harm is at its tolerance.
        failure_share_limit: share of requests that a challenger may fail to answer in time, beyond
            the champion's.
        guardrail_minimum_failures: least number of failures for which a promoted champion is taken
            back at once.
        stop: the harm that stops a challenger at any step, once it is proven.
        shadow: the step in which a challenger scores copies of the requests.
        canary: the steps in which a challenger answers a growing share of the customers.
        approval_deadline_h: hours of event time for which a rollout waits for its approval; then it
            rolls back.
        deploy_wall_deadline_s: seconds of wall time within which a new version's service must be
            ready.
        step_wall_deadline_s: seconds of wall time after which a step ends, for when event time
            stands still; the longest `deadline_h` or more.
        confirm_after_days: least days of event time between a promotion and its confirmation by
            matured labels.
        confirm_recall_drop: largest share of the positives missed beyond the champion's, by matured
            labels, with which a promotion is confirmed; None: nothing need be shown.
        confirm_accuracy_drop: accuracy that may be lost by matured labels, for models of classes
            only.
        confirm_error_rise: rise of the error that is allowed by matured labels, for models of
            numbers only.
        freeze: times in which no rollout moves forward; None: there are none.
        segments: segments that are judged by themselves too; None: there are none.
    """

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
    confirm_error_rise: Positive | None = None
    freeze: FreezePolicy | None = None
    segments: SegmentPolicy | None = None

    @property
    def by_labels(self) -> tuple[float, float | None]:
        """Limits by matured labels: the harm beyond which a challenger is stopped, and the harm
        within which it is confirmed. Harm is in positives found, in right classes, or in errors."""
        stop = self.stop
        if stop.accuracy is not None:
            return stop.accuracy, self.confirm_accuracy_drop
        if stop.error is not None:
            return stop.error, self.confirm_error_rise
        return stop.recall, self.confirm_recall_drop
