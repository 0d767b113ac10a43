"""How a challenger goes on, and what stops it, as model.yaml declares it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

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


class StopLimits(Section, frozen=True):
    """A challenger of which more than this is proven is stopped, at any step.

    Args:
        alerts: more or fewer alerts than predicted, as a share of the predicted ones.
        disagreement: of requests with an alert of either arm, the share on which only one raised
            it, beyond what was predicted.
        latency_p50, latency_p99: over the champion's.
        utilisation: share of the time that a pod would compute with all of the traffic.
        recall: of the positives that matured labels tell, the share that it finds less than the
            champion at as many alerts.
    """

    alerts: Positive
    disagreement: Positive
    latency_p50: Ratio
    latency_p99: Ratio
    utilisation: Annotated[float, Meta(gt=0, le=1)]
    recall: Share


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
    freeze: FreezePolicy | None = None
    segments: SegmentPolicy | None = None
