"""What a model folder declares: the one home of a model's numbers, checked from model.yaml."""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import yaml
from msgspec import Meta

from mlplatform.errors import ConfigInvalid, InputInvalid, NotFound
from mlplatform.models import document
from mlplatform.text import cleaned

REQUEST_UNIT = "request"
EVENT_TIME = "event_time"
"""The field of every request that no model.yaml declares: when the payment was made."""
MIN_DEADLINE_MS, MAX_DEADLINE_MS = 5, 10_000
"""Of what an application may ask for, and of what a model.yaml may give it by default."""
CALL_ROWS = 128
"""The most rows that a gateway sends in one call of a predictor."""

# NaN is in none of these.
Name = Annotated[str, Meta(pattern=r"\A[a-z][a-z0-9-]{0,30}\Z")]
Team = Annotated[str, Meta(pattern=r"\A[a-z]([a-z0-9-]{0,28}[a-z0-9])?\Z")]
FieldName = Annotated[str, Meta(pattern=r"\A[a-z][a-z0-9_]{0,62}\Z")]
Text = Annotated[str, Meta(pattern=r"\S", max_length=500)]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Positive = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
ErrorShare = Annotated[float, Meta(gt=0, lt=0.5)]
"""At 0 an interval is so wide that nothing is ever proven: the test would be switched off."""


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown and missing keys are errors."""


class RequestField(_Strict, frozen=True):
    """One field that an application sends with each request."""

    type: Literal["int64", "float64", "string", "bool"]
    entity: str | None = None
    pseudonymous: bool = False
    minimum: float | None = None
    maximum: float | None = None


class InputSpec(_Strict, frozen=True):
    """One input of the model, by position: a transform of the request or a feature of a view."""

    name: str
    kind: Literal["field", "hour_of_day", "day_of_week", "is_weekend", "is_night", "ratio", "view"]
    of: str | None = None
    to: str | None = None


class Label(_Strict, frozen=True):
    name: str
    maturity_days: Annotated[int, Meta(ge=0)]


class SmallModelPolicy(_Strict, frozen=True):
    """The scorecard that is fitted beside every model, for when no predictor answers."""

    inputs: Count
    bins: Annotated[int, Meta(ge=2, le=50)]


class DecisionPolicy(_Strict, frozen=True):
    review_share: float
    decline_share: float


class GatePolicy(_Strict, frozen=True):
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
        late_share: of what a view is valid for: older, its newest snapshot is late and told of.
    """

    stale_share_limit: Share = 0.05
    late_share: Annotated[float, Meta(gt=0, lt=1)] = 0.5


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
        deadline_s: how long a fit may take from when it is asked for, waiting for its place
            included; then it is ended and has failed.
        gpu: that a fit on Kubernetes holds; None means the one that the model's pods hold.
    """

    window_days: Count
    holdout_days: Count
    minimum_rows: Count
    minimum_positives: Count
    small_model: SmallModelPolicy
    deadline_s: Annotated[int, Meta(ge=60, le=86_400)] = 1200
    gpu: GpuPolicy | None = None


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


class ShadowStep(_Strict, frozen=True):
    minimum_units: Count
    minimum_requests: Count
    deadline_h: Positive


class CanaryStep(_Strict, frozen=True):
    percent: float
    minimum_units: Count
    deadline_h: Positive


class RolloutPolicy(_Strict, frozen=True):
    approval: Literal["required", "none"]
    false_alarm_share: ErrorShare
    failure_share_limit: Share
    guardrail_minimum_failures: Count
    shadow: ShadowStep
    canary: tuple[CanaryStep, ...]
    approval_deadline_h: Positive
    deploy_wall_deadline_s: Positive
    step_wall_deadline_s: Positive
    confirm_after_days: Count


class DriftPolicy(_Strict, frozen=True):
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
    features: FeaturesPolicy = FeaturesPolicy()
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
        """The names whose values say something about a person: what applications send, and the
        inputs that are made of it. No log, span or metric may hold such a value."""
        made = (i.name for i in self.inputs if i.of is not None)
        return frozenset((*self.request, *made))

    @property
    def entities(self) -> dict[str, str]:
        """Entity name → the request field that holds its key."""
        return {f.entity: name for name, f in self.request.items() if f.entity is not None}


def parse(text: str, source: str) -> ModelDefinition:
    """The definition in a model.yaml.

    Raises:
        ConfigInvalid: an unknown, missing, repeated, mistyped or impossible field, by its key.
    """
    try:
        written = document.read(text)
        definition = msgspec.convert(written, ModelDefinition)
    except yaml.YAMLError as error:
        where, problem = document.place(source, error)
        raise ConfigInvalid(where, problem, "a model.yaml as documented") from error
    except msgspec.ValidationError as error:
        raise ConfigInvalid(source, str(error), "a model.yaml as documented") from error
    definition = _with_clean_text(definition, source)
    _check(definition, source)
    for key, value in document.endless(written):
        raise ConfigInvalid(f"{source}: {key}", value, "a finite number")
    return definition


def model_names() -> list[str]:
    """Names of the model folders of this installation."""
    root = resources.files("mlplatform.models")
    return sorted(f.name for f in root.iterdir() if f.joinpath("model.yaml").is_file())


def model_folder(name: str) -> Path:
    """The folder of a model.

    Raises:
        NotFound: lists the models that exist.
    """
    if name not in model_names():
        raise NotFound(f"no model {name!r}; there are: {', '.join(model_names())}")
    return Path(str(resources.files("mlplatform.models").joinpath(name)))


@functools.cache
def load_definition(name: str) -> ModelDefinition:
    """The definition of a model of this installation, by name.

    Raises:
        NotFound: lists the models that exist.
        ConfigInvalid: its model.yaml is wrong, or is that of another model.
    """
    path = model_folder(name) / "model.yaml"
    definition = parse(path.read_text(), str(path.name))
    if definition.name != name:
        raise ConfigInvalid(f"{path.name}: name", definition.name, f"the folder's name, {name!r}")
    return definition


def _with_clean_text(model: ModelDefinition, source: str) -> ModelDefinition:
    """What a person reads of the model, as it is kept."""
    try:
        return msgspec.structs.replace(
            model,
            owner=cleaned(f"{source}: owner", model.owner),
            purpose=cleaned(f"{source}: purpose", model.purpose, lines=True),
        )
    except InputInvalid as error:
        raise ConfigInvalid(error.source, "a text", str(error)) from error


def _check(model: ModelDefinition, source: str) -> None:
    names = [i.name for i in model.inputs]
    checks: list[tuple[bool, str, object, str]] = [
        (
            model.assignment_unit == REQUEST_UNIT or model.assignment_unit in model.request,
            "assignment_unit",
            model.assignment_unit,
            f"a request field or {REQUEST_UNIT!r}",
        ),
        (
            EVENT_TIME not in model.request,
            "request",
            EVENT_TIME,
            "another name: every request has it",
        ),
        (len(set(names)) == len(names), "inputs", names, "names that differ"),
        (
            0 < model.latency_slo_ms <= model.deadline_ms,
            "latency_slo_ms",
            model.latency_slo_ms,
            "more than 0 and at most deadline_ms",
        ),
        (
            0 < model.decision.decline_share <= model.decision.review_share < 1,
            "decision.decline_share",
            model.decision.decline_share,
            "more than 0 and at most review_share",
        ),
        (
            2 <= model.training.holdout_days < model.training.window_days,
            "training.holdout_days",
            model.training.holdout_days,
            "2 or more (calibration and gates take half each) and less than window_days",
        ),
        (
            _rising([s.percent for s in model.rollout.canary]),
            "rollout.canary",
            [s.percent for s in model.rollout.canary],
            "percents that rise, more than 0, at most 100",
        ),
        (
            model.gates.alert_share_minimum <= model.gates.alert_share_maximum,
            "gates.alert_share_minimum",
            model.gates.alert_share_minimum,
            "at most alert_share_maximum",
        ),
        (
            model.gpu is None or model.accelerator != "cpu",
            "gpu",
            model.gpu,
            "nothing, where accelerator is cpu",
        ),
        (
            _whole_or_one(model.gpu),
            "gpu.count",
            None if model.gpu is None else model.gpu.count,
            "1 of a slice or a share",
        ),
        (
            _whole_or_one(model.training.gpu),
            "training.gpu.count",
            None if model.training.gpu is None else model.training.gpu.count,
            "1 of a slice or a share",
        ),
        (
            model.serving.runtime != "triton"
            or model.serving.batch_rows >= max(CALL_ROWS, len(model.inputs)),
            "serving.batch_rows",
            model.serving.batch_rows,
            f"{max(CALL_ROWS, len(model.inputs))} or more, where runtime is triton: a call holds so"
            " many rows, and Triton refuses one of more",
        ),
        (
            model.breaker.minimum_calls <= model.breaker.window_calls,
            "breaker.minimum_calls",
            model.breaker.minimum_calls,
            "at most window_calls",
        ),
        (
            model.chain.features_share + model.chain.reserve_share < 1,
            "chain.features_share",
            model.chain.features_share,
            "less than what reserve_share leaves",
        ),
        (
            set(model.drift.inputs) <= set(names),
            "drift.inputs",
            sorted(set(model.drift.inputs) - set(names)),
            "names of inputs",
        ),
        (
            0 < model.drift.drifted_windows <= model.drift.windows,
            "drift.drifted_windows",
            model.drift.drifted_windows,
            "1 to drift.windows",
        ),
    ]
    if (scaling := model.serving.scaling) is not None:
        checks += [
            (
                scaling.minimum_replicas <= scaling.maximum_replicas,
                "serving.scaling.minimum_replicas",
                scaling.minimum_replicas,
                "at most maximum_replicas",
            ),
            (
                scaling.queued_requests < model.serving.queue_requests,
                "serving.scaling.queued_requests",
                scaling.queued_requests,
                "less than queue_requests, beyond which requests are refused",
            ),
            (
                model.serving.runtime != "triton",
                "serving.scaling",
                "what asks for pods",
                "nothing, where runtime is triton: it is read from the own predictor's metrics",
            ),
        ]
    for name, field in model.request.items():
        if field.minimum is not None and field.maximum is not None:
            ordered = field.minimum <= field.maximum
            checks.append((ordered, f"request.{name}.minimum", field.minimum, "at most maximum"))
    for holds, key, value, wanted in checks:
        if not holds:
            raise ConfigInvalid(f"{source}: {key}", value, wanted)


def _whole_or_one(gpu: GpuPolicy | None) -> bool:
    return gpu is None or gpu.count == 1 or gpu.resource == "nvidia.com/gpu"


def _rising(percents: list[float]) -> bool:
    inside = all(0 < p <= 100 for p in percents)
    return bool(percents) and inside and percents == sorted(set(percents))
