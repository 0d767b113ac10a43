"""What model.yaml declares: the one home of a model's numbers, as types."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mlplatform.model.decision_scale import Decision, DecisionPolicy, ReviewPolicy
from mlplatform.model.segments import FairnessPolicy, SegmentPolicy
from mlplatform.model.tensors.signature import Signature
from mlplatform.model.windows.declaration import Window

REQUEST_UNIT = "request"
EVENT_TIME = "event_time"
"""The field of every request that no model.yaml declares: when the request was made."""
MIN_DEADLINE_MS, MAX_DEADLINE_MS = 5, 10_000
"""Of what an application may ask for, and of what a model.yaml may give it by default."""
CALL_ROWS = 128
"""The most rows that a gateway sends in one call of a predictor."""

# NaN is in none of these.
NAME_PATTERN = r"\A[a-z][a-z0-9_-]{0,27}\Z"
"""Names of jobs hold a model's, and have at most 53 characters."""
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
Team = Annotated[str, Meta(pattern=r"\A[a-z]([a-z0-9-]{0,28}[a-z0-9])?\Z")]
FieldName = Annotated[str, Meta(pattern=r"\A[a-z][a-z0-9_]{0,62}\Z")]
Text = Annotated[str, Meta(pattern=r"\S", max_length=500)]
Words = Annotated[tuple[Annotated[str, Meta(max_length=1024)], ...], Meta(max_length=10_000)]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Positive = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Ratio = Annotated[float, Meta(ge=1)]
ErrorShare = Annotated[float, Meta(gt=0, lt=0.5)]
"""At 0 an interval is so wide that nothing is ever proven: the test would be switched off."""


def dns_name(model: str) -> str:
    """A model's name where no `_` is taken: services, workflows and their templates. Two models of
    one installation never have the same (`model.folders`)."""
    return model.replace("_", "-")


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown and missing keys are errors."""


class RequestField(_Strict, frozen=True):
    """One field that an application sends with each request.

    Args:
        max_length: characters of a text; None: 1024.
        values: the texts that are taken, and no other; an empty one is a missing value.
    """

    type: Literal["int64", "float64", "string", "bool"]
    entity: str | None = None
    pseudonymous: bool = False
    minimum: float | None = None
    maximum: float | None = None
    max_length: Annotated[int, Meta(ge=1, le=1024)] | None = None
    values: Words | None = None


InputKind = Literal[
    "field",
    "category",
    "hour_of_day",
    "day_of_week",
    "is_weekend",
    "is_night",
    "ratio",
    "view",
    "window",
]


class InputSpec(_Strict, frozen=True):
    """One input of the model, by position: a transform of the request, a feature of a view, or a
    window of an entity."""

    name: str
    kind: InputKind
    of: str | None = None
    to: str | None = None


class Label(_Strict, frozen=True):
    name: str
    maturity_days: Annotated[int, Meta(ge=0)]
    review: ReviewPolicy = ReviewPolicy()


class SmallModelPolicy(_Strict, frozen=True):
    """The scorecard that is fitted beside every model, for when no predictor answers."""

    inputs: Count
    bins: Annotated[int, Meta(ge=2, le=50)]


class ExplorationPolicy(_Strict, frozen=True):
    """A share of the requests whose outcome a model's decision would hide is let through, so that
    their outcomes stand for those of the rest.

    Args:
        share: of such requests, drawn by a hash: the propensity in their records.
        decision: that such a request gets in place of the one that hides its outcome.
        amount: the request field that holds what may be lost by one request.
        maximum_amount: of one request; larger ones are never let through.
        maximum_sum: of all requests let through in `hours` of event time, in one gateway machine
            or pod, whose processes hold equal parts of it.
    """

    share: Annotated[float, Meta(gt=0, le=0.5)]
    decision: Decision
    amount: FieldName
    maximum_amount: Positive
    maximum_sum: Positive
    hours: Annotated[int, Meta(ge=1, le=24 * 7)] = 24


class GatePolicy(_Strict, frozen=True):
    """What a candidate is held to before it is a version.

    Args:
        average_precision_drop: against the champion, that the low end of the interval may reach.
        average_precision_loss: a loss that is proven to be larger, by the high end, is refused.
        single_input_average_precision: of one input alone; from there on it is leaked.
        skew: what follows where decisions did not read what they should have: it is
            reported, or nothing is trained from them.
        fairness: how far the outcomes of protected groups may lie apart; None: it is reported.
    """

    average_precision_drop: Share
    minimum_average_precision: Share
    small_model_lift: Annotated[float, Meta(ge=1)]
    calibration_error: Share
    latency_p99_ms: Positive
    onnx_difference: Positive
    missing_share: Share
    alert_share_minimum: Share
    alert_share_maximum: Share
    decision_flip_share: Share
    alert_band_factor: Annotated[float, Meta(ge=1)]
    average_precision_loss: Share = 0.01
    single_input_average_precision: Share = 0.9
    skew: Literal["tell", "refuse"] = "tell"
    fairness: FairnessPolicy | None = None


class AdmissionPolicy(_Strict, frozen=True):
    """What all clients together may ask of this model."""

    rate_per_s: Annotated[float, Meta(gt=0, le=1_000_000)]
    burst: Annotated[int, Meta(ge=1, le=1_000_000)]


class ChainPolicy(_Strict, frozen=True):
    """How a request's deadline is spent, and how much of a gateway its model may hold."""

    reserve_share: Annotated[float, Meta(gt=0, lt=1)]
    step_share: Annotated[float, Meta(gt=0, lt=1)]
    features_share: Annotated[float, Meta(gt=0, lt=1)]
    concurrent: Count
    retry_share: Share
    retry_burst: Count


class FeaturesPolicy(_Strict, frozen=True):
    """How fresh features have to be for all to be well.

    Args:
        stale_share_limit: of a minute's decisions, that may be made without fresh features.
        late_share: of what a view is valid for: older, its newest snapshot is reported as late.
        skew_share: of a feature's values that may be other than they should have been.
        window_late_s: what was recorded so long before a decision, its windows should hold.
        snapshot_late_h: so long after its midnight, a snapshot should be served.
    """

    stale_share_limit: Share = 0.05
    late_share: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    skew_share: ErrorShare = 0.01
    window_late_s: Positive = 60
    snapshot_late_h: Annotated[float, Meta(gt=0, le=24)] = 6


class BreakerPolicy(_Strict, frozen=True):
    window_calls: Count
    minimum_calls: Count
    failure_share: Annotated[float, Meta(gt=0, le=1)]
    slow_share: Annotated[float, Meta(gt=0, le=1)]
    slow_ms: Annotated[float, Meta(gt=0, le=200)]
    open_s: Positive
    half_open_probes: Count


class ScalingPolicy(_Strict, frozen=True):
    """Between how many pods an autoscaler may choose, and what it holds each version to.

    Args:
        queued_requests: that wait in one predictor.
        latency_p99_ms: of a predictor, from a request's headers to its answer.
    """

    minimum_replicas: Annotated[int, Meta(ge=1, le=1000)]
    maximum_replicas: Annotated[int, Meta(ge=1, le=1000)]
    queued_requests: Count
    latency_p99_ms: Positive


class ServingPolicy(_Strict, frozen=True):
    """How a predictor of this model collects requests into calls of the model, and what it needs.

    Args:
        load_deadline_s: a pod that is not ready this long after its start is started again.
        cpus: processors of each pod, asked for and allowed; None means the platform's own amounts.
        memory_mib: its memory in MiB, likewise; a model takes some of it twice while it loads.
        runtime: what answers on Kubernetes: the platform's own predictor, or Triton. On one machine
            it is the own predictor in any case.
    """

    queue_requests: Count
    batch_rows: Count
    batch_delay_us: Annotated[int, Meta(ge=0)]
    load_deadline_s: Annotated[int, Meta(ge=1, le=3600)] = 60
    cpus: Annotated[float, Meta(ge=0.1, le=128)] | None = None
    memory_mib: Annotated[int, Meta(ge=128, le=1_048_576)] | None = None
    scaling: ScalingPolicy | None = None
    runtime: Literal["mlplatform", "triton"] = "mlplatform"


class GpuPolicy(_Strict, frozen=True):
    """The GPU that each pod of a model holds.

    Args:
        resource: a whole GPU, a slice of one with memory of its own (MIG), or a share of one that
            others use too, without memory of its own (time-slicing, MPS).
        count: how many; more than one only of whole GPUs.
        product: the kind of GPU, as NVIDIA's feature discovery labels its nodes; None means any.
    """

    resource: Annotated[
        str, Meta(pattern=r"^nvidia\.com/(gpu|gpu\.shared|mig-[1-7]g\.[1-9][0-9]{0,2}gb)$")
    ]
    count: Annotated[int, Meta(ge=1, le=8)] = 1
    product: str | None = None


class TrainingPolicy(_Strict, frozen=True):
    """What a model learns from, and what its fit needs.

    Args:
        folds: fits of earlier days that are tested on the days after them; 1: one hold-out.
        deadline_s: of a fit from when it is asked for, its wait included; then it has failed.
        gpu: that a fit on Kubernetes holds; None means the one that the model's pods hold.
        hidden_outcomes: what a stopped request without a known outcome teaches: nothing
            (`leave_out`), what those say that chance let through in its place (`weight`), or, where
            there are none, that it is positive (`pseudo_label`).
        pseudo_label_precision: share of stopped requests of known outcome that must be shown to be
            positive before one without counts as such.
        vocabulary: most words of a category that are learned, where none are declared.
    """

    window_days: Count
    holdout_days: Count
    minimum_rows: Count
    minimum_positives: Count
    small_model: SmallModelPolicy
    folds: Annotated[int, Meta(ge=1, le=20)] = 1
    hidden_outcomes: Literal["leave_out", "pseudo_label", "weight"] = "pseudo_label"
    pseudo_label_precision: Share = 0.8
    deadline_s: Annotated[int, Meta(ge=60, le=86_400)] = 1200
    gpu: GpuPolicy | None = None
    vocabulary: Annotated[int, Meta(ge=1, le=10_000)] = 100


class CachePolicy(_Strict, frozen=True):
    """Scores kept for equal rows; a model.yaml without it keeps none."""

    entries: Count
    keep_s: Positive


class AsyncPolicy(_Strict, frozen=True):
    """How requests to be scored later are worked off; a model.yaml without it takes none.

    Args:
        enabled: whether gateways take such requests and the platform runs a worker for them.
        batch: messages of one commit, the most that a worker holds.
        chunk: items of one call of the gateway.
        connections: calls of the gateway at a time.
    """

    enabled: bool
    batch: Annotated[int, Meta(ge=1, le=10_000)]
    chunk: Annotated[int, Meta(ge=1, le=1_000)]
    connections: Annotated[int, Meta(ge=1, le=64)]


class StopLimits(_Strict, frozen=True):
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


class Tolerance(_Strict, frozen=True):
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


class ShadowStep(_Strict, frozen=True):
    minimum_units: Count
    minimum_requests: Count
    deadline_h: Positive
    tolerance: Tolerance


class CanaryStep(_Strict, frozen=True):
    percent: float
    minimum_units: Count
    deadline_h: Positive
    tolerance: Tolerance


class FreezeWindow(_Strict, frozen=True):
    """A time in which no rollout moves forward: once, or each week.

    Args:
        start, end: `from` and `to` in model.yaml, as `model.freeze_times` reads them; both dates or
            both weekdays. A date alone as the end is that whole day.
    """

    start: str = msgspec.field(name="from")
    end: str = msgspec.field(name="to")
    reason: Text


class FreezePolicy(_Strict, frozen=True):
    """When no rollout moves forward.

    Args:
        time_zone: of all windows, as IANA names it.
    """

    windows: Annotated[tuple[FreezeWindow, ...], Meta(max_length=100)]
    time_zone: str = "UTC"


class RolloutPolicy(_Strict, frozen=True):
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


class Segment(_Strict, frozen=True):
    """Requests of which one input lies in [at_least, below); None does not bound."""

    name: FieldName
    input: str
    at_least: float | None = None
    below: float | None = None


class DriftPolicy(_Strict, frozen=True):
    """When traffic has drifted, and what may follow.

    Args:
        performance_false_alarm_share: chance that 30 days without one make an incident of
            performance, all metrics together.
        performance_drop: share of its first recall or precision that a champion may lose.
        calibration_drift: how far positives over those that its scores expect may move, as a share.
        segments: whose recall and precision are watched besides those of all requests.
        retrain_cooldown_days: of wall time, between the retrains of two incidents.
        retrain_budget: retrains within 30 days; then a person decides.
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


class RetentionPolicy(_Strict, frozen=True):
    """How long the decision log keeps payloads: request, features and reasons.

    Args:
        payload_days: of event time; `model.consistency` says the fewest.
    """

    payload_days: Annotated[int, Meta(ge=1, le=36_500)]


class ModelDefinition(_Strict, frozen=True):
    """Everything that the platform knows about a model before any version of it exists."""

    name: Name
    owner: Text
    purpose: Text
    tier: Literal[1, 2, 3]
    accelerator: Literal["cpu", "cuda", "tensorrt"]
    assignment_unit: str
    latency_slo_ms: float
    deadline_ms: Annotated[float, Meta(ge=MIN_DEADLINE_MS, le=MAX_DEADLINE_MS)]
    idempotency_keep_h: Count
    when_unrecordable: Literal["refuse", "answer_unlogged"]
    request: Annotated[dict[FieldName, RequestField], Meta(min_length=1)]
    inputs: tuple[InputSpec, ...]
    label: Label
    training: TrainingPolicy
    decision: DecisionPolicy
    gates: GatePolicy
    serving: ServingPolicy
    admission: AdmissionPolicy
    chain: ChainPolicy
    breaker: BreakerPolicy
    rollout: RolloutPolicy
    drift: DriftPolicy
    protected: tuple[FieldName, ...] = ()
    """Request fields whose groups are compared, and that nothing decides by; they may be absent."""
    features: FeaturesPolicy = FeaturesPolicy()
    windows: tuple[Window, ...] = ()
    """Of the request's entities, as fresh as the last request (docs/features.md)."""
    exploration: ExplorationPolicy | None = None
    retention: RetentionPolicy | None = None
    """None: payloads are kept until somebody erases them."""
    vocabularies: dict[str, Words] = {}
    """The words of category inputs that are not learned, in the order of their places."""
    signature: Signature | None = None
    gpu: GpuPolicy | None = None
    team: Team | None = None
    """Whose quota of a cluster the model's pods count against; None: that of all such models."""
    cache: CachePolicy | None = None
    asynchronous: AsyncPolicy | None = msgspec.field(default=None, name="async")

    @property
    def takes_async(self) -> bool:
        """Whether requests may be left to be scored later."""
        return self.asynchronous is not None and self.asynchronous.enabled

    @property
    def personal(self) -> frozenset[str]:
        """Request fields and inputs made of them: no log, span or metric may hold such a value."""
        made = (i.name for i in self.inputs if i.of is not None)
        return frozenset((*self.request, *made))

    @property
    def entities(self) -> dict[str, str]:
        """Entity name → the request field that holds its key."""
        return {f.entity: name for name, f in self.request.items() if f.entity is not None}
