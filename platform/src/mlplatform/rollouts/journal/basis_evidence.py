"""The JSON forms, in evidence, of a verdict's basis and a rollout's plan.

Keys may be missing if their class has a default for them: an earlier release did not know them, or
they hold the default and are left out.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from mlplatform.model.policies.decision_scale import Task

Role = Literal["shadow", "canary", "champion"]
Values = list[bool | float | str]


class PlannedStepEvidence(TypedDict):
    """`transitions.PlannedStep`."""

    percent: float | None
    hours: float | None
    deadline_h: float
    passes: float
    decides: str
    exposed: int


class PlanEvidence(TypedDict, total=False):
    """`transitions.RolloutPlan`."""

    history_h: float
    requests_h: float
    steps: list[PlannedStepEvidence]
    refusal: str
    missing: str
    despite: str


class SegmentSourceEvidence(TypedDict):
    """`policies.segments.SegmentSource`."""

    name: str
    kind: str
    of: NotRequired[str | None]
    to: NotRequired[str | None]
    at_least: NotRequired[float | None]
    below: NotRequired[float | None]
    values: NotRequired[Values]


class QuantityEvidence(TypedDict):
    """`policies.decision_scale.Quantity`."""

    unit: str
    tolerance: float
    minimum: NotRequired[float | None]
    maximum: NotRequired[float | None]


class ScaleEvidence(TypedDict):
    """`policies.decision_scale.DecisionScale`."""

    names: list[str]
    alerts: list[str]
    by_class: NotRequired[bool]
    number: NotRequired[QuantityEvidence | None]


class SubjectEvidence(TypedDict):
    """`verdicts.facts.Subject`."""

    generation: int
    role: Role
    version: int
    within_us: NotRequired[float]
    segments: NotRequired[list[SegmentSourceEvidence]]
    scale: NotRequired[ScaleEvidence]
    by_decision: NotRequired[bool]


class StopEvidence(TypedDict):
    """`policies.rollout.StopLimits`."""

    alerts: float
    disagreement: float
    latency_p50: float
    latency_p99: float
    utilisation: float
    recall: float
    accuracy: NotRequired[float | None]
    error: NotRequired[float | None]


class ToleranceEvidence(TypedDict):
    """`policies.rollout.Tolerance`."""

    failures: float
    alerts: NotRequired[float | None]
    disagreement: NotRequired[float | None]
    latency_p50: NotRequired[float | None]
    latency_p99: NotRequired[float | None]


class ErrorsEvidence(TypedDict):
    """`verdicts.verdict.Errors`."""

    stop: float
    missed: float
    parts: NotRequired[dict[str, int]]


class PredictionEvidence(TypedDict):
    """`verdicts.verdict.Prediction`."""

    alert_ratio: float
    disagreement: float
    alert_share: NotRequired[float | None]
    replayed: NotRequired[bool]
    requests: NotRequired[int]
    design_effect: NotRequired[float | None]
    flip_design_effect: NotRequired[float | None]
    alone: NotRequired[float | None]


class SegmentLimitsEvidence(TypedDict):
    """`policies.segments.SegmentLimits`."""

    alerts: float
    disagreement: float


class SegmentStepEvidence(TypedDict):
    """`verdicts.comparison.SegmentStep`."""

    name: str
    stop: SegmentLimitsEvidence
    tolerance: SegmentLimitsEvidence
    errors: ErrorsEvidence
    predicted: PredictionEvidence
    holds: bool


class StepEvidence(TypedDict):
    """`verdicts.judgement.StepPolicy`."""

    stop: StopEvidence
    tolerance: ToleranceEvidence
    errors: ErrorsEvidence
    predicted: PredictionEvidence
    percent: float | None
    units: int
    requests: int
    pods: int
    segments: NotRequired[list[SegmentStepEvidence]]
    immaterial_us: NotRequired[float]


class LimitsEvidence(TypedDict):
    """`verdicts.judgement.GateLimits`."""

    error_share: float
    failure_share: float
    guardrail_failures: int
    step: StepEvidence | None


class WatermarkEvidence(TypedDict):
    """`records.port.Watermark`."""

    writer: str
    seq: int
    event_ms: int | None
    heartbeat_at_ms: int
    live: bool
    spilled: NotRequired[int]
    unheard: NotRequired[bool]
    chain: NotRequired[str | None]


class GatewayEvidence(TypedDict):
    """`journal.GatewayLease`."""

    gateway: str
    generation: int | None
    stopped: NotRequired[dict[str, str]]


class SourcesEvidence(TypedDict):
    """`verdicts.judgement.Sources`."""

    watermarks: list[WatermarkEvidence]
    gateways: list[GatewayEvidence]


class BoundEvidence(TypedDict):
    """`verdicts.verdict.Bound`."""

    limit: float
    tolerance: float | None


class OutcomesEvidence(TypedDict):
    """`verdicts.basis.OutcomeBasis`."""

    generation: int
    version: int
    maturity_ms: int
    now_event_ms: int
    marks: dict[str, int]
    bound: BoundEvidence
    errors: ErrorsEvidence
    capacity: float
    due: bool
    hides: NotRequired[list[str]]
    explores: NotRequired[bool]
    task: NotRequired[Task]
    step_ms: NotRequired[int]


class ShadowEvidence(TypedDict):
    """`policies.rollout.ShadowStep`."""

    minimum_units: int
    minimum_requests: int
    deadline_h: float
    tolerance: ToleranceEvidence
    minimum_h: NotRequired[float | None]


class CanaryEvidence(TypedDict):
    """`policies.rollout.CanaryStep`."""

    percent: float
    minimum_units: int
    deadline_h: float
    tolerance: ToleranceEvidence
    minimum_h: NotRequired[float | None]


FreezeWindowEvidence = TypedDict(
    "FreezeWindowEvidence", {"from": str, "to": str, "reason": str}
)  # `policies.rollout.FreezeWindow`; `from` is a word of Python


class FreezeEvidence(TypedDict):
    """`policies.rollout.FreezePolicy`."""

    windows: list[FreezeWindowEvidence]
    time_zone: NotRequired[str]


class SegmentGroupEvidence(TypedDict):
    """`policies.segments.RolloutSegment`."""

    name: str
    input: NotRequired[str | None]
    field: NotRequired[str | None]
    at_least: NotRequired[float | None]
    below: NotRequired[float | None]
    values: NotRequired[Values]
    required: NotRequired[bool]


class SegmentPolicyEvidence(TypedDict):
    """`policies.segments.SegmentPolicy`."""

    stop: SegmentLimitsEvidence
    tolerance: SegmentLimitsEvidence
    groups: list[SegmentGroupEvidence]


class PolicyEvidence(TypedDict):
    """`policies.rollout.RolloutPolicy`: `rollout` of model.yaml."""

    approval: Literal["required", "none"]
    false_alarm_share: float
    missed_harm_share: float
    failure_share_limit: float
    guardrail_minimum_failures: int
    stop: StopEvidence
    shadow: ShadowEvidence
    canary: list[CanaryEvidence]
    approval_deadline_h: float
    deploy_wall_deadline_s: float
    step_wall_deadline_s: float
    confirm_after_days: int
    confirm_recall_drop: NotRequired[float | None]
    confirm_accuracy_drop: NotRequired[float | None]
    confirm_error_rise: NotRequired[float | None]
    freeze: NotRequired[FreezeEvidence | None]
    segments: NotRequired[SegmentPolicyEvidence | None]


class BasisEvidence(TypedDict):
    """`verdicts.basis.Basis`."""

    subject: SubjectEvidence
    limits: LimitsEvidence
    sources: SourcesEvidence
    line_ms: int | None
    outcomes: OutcomesEvidence | None
    policy: PolicyEvidence
    code: str
    unrouted: NotRequired[str | None]
