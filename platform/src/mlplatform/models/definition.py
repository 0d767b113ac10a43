"""What a model folder declares: the one home of a model's numbers, checked from model.yaml."""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec
import yaml

from mlplatform.errors import ConfigInvalid, NotFound

NAME_PATTERN = r"^[a-z][a-z0-9-]{0,30}$"
REQUEST_UNIT = "request"


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
    maturity_days: int


class TrainingPolicy(_Strict, frozen=True):
    window_days: int
    holdout_days: int
    minimum_rows: int
    minimum_positives: int


class DecisionPolicy(_Strict, frozen=True):
    review_share: float
    decline_share: float


class GatePolicy(_Strict, frozen=True):
    average_precision_drop: float
    minimum_average_precision: float
    calibration_error: float
    latency_p99_ms: float
    onnx_difference: float
    missing_share: float
    alert_share_minimum: float
    alert_share_maximum: float
    decision_flip_share: float
    alert_band_factor: float


class BreakerPolicy(_Strict, frozen=True):
    window_calls: int
    minimum_calls: int
    failure_share: float
    open_s: float
    half_open_probes: int


class ShadowStep(_Strict, frozen=True):
    minimum_units: int
    minimum_requests: int
    deadline_h: float


class CanaryStep(_Strict, frozen=True):
    percent: float
    minimum_units: int
    deadline_h: float


class RolloutPolicy(_Strict, frozen=True):
    approval: Literal["required", "none"]
    false_alarm_share: float
    failure_share_limit: float
    guardrail_minimum_failures: int
    shadow: ShadowStep
    canary: tuple[CanaryStep, ...]
    approval_deadline_h: float
    deploy_wall_deadline_s: float
    step_wall_deadline_s: float
    confirm_after_days: int


class DriftPolicy(_Strict, frozen=True):
    window_h: int
    windows: int
    drifted_windows: int
    minimum_rows: int
    false_alarm_share: float
    psi: float
    wasserstein: float
    inputs: tuple[str, ...]
    matured_positives: int
    claim_s: int
    page_after_days: int


class ModelDefinition(_Strict, frozen=True):
    """Everything that the platform knows about a model before any version of it exists."""

    name: str
    owner: str
    purpose: str
    tier: Literal[1, 2, 3]
    accelerator: Literal["cpu", "cuda", "tensorrt"]
    assignment_unit: str
    latency_slo_ms: float
    deadline_ms: float
    request: dict[str, RequestField]
    inputs: tuple[InputSpec, ...]
    label: Label
    training: TrainingPolicy
    decision: DecisionPolicy
    gates: GatePolicy
    breaker: BreakerPolicy
    rollout: RolloutPolicy
    drift: DriftPolicy

    @property
    def entities(self) -> dict[str, str]:
        """Entity name → the request field that holds its key."""
        return {f.entity: name for name, f in self.request.items() if f.entity is not None}


def parse(text: str, source: str) -> ModelDefinition:
    """The definition in a model.yaml.

    Raises:
        ConfigInvalid: an unknown, missing, mistyped or impossible field, named by its key.
    """
    try:
        definition = msgspec.convert(yaml.safe_load(text), ModelDefinition)
    except (msgspec.ValidationError, yaml.YAMLError) as error:
        raise ConfigInvalid(source, str(error), "a model.yaml as documented") from error
    _check(definition, source)
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
    """The definition of a model of this installation, by name."""
    path = model_folder(name) / "model.yaml"
    return parse(path.read_text(), str(path.name))


def _check(model: ModelDefinition, source: str) -> None:
    names = [i.name for i in model.inputs]
    checks: list[tuple[bool, str, object, str]] = [
        (
            model.assignment_unit == REQUEST_UNIT or model.assignment_unit in model.request,
            "assignment_unit",
            model.assignment_unit,
            f"a request field or {REQUEST_UNIT!r}",
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
    for holds, key, value, wanted in checks:
        if not holds:
            raise ConfigInvalid(f"{source}: {key}", value, wanted)


def _rising(percents: list[float]) -> bool:
    inside = all(0 < p <= 100 for p in percents)
    return bool(percents) and inside and percents == sorted(set(percents))
