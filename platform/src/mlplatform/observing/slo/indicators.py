"""Indicators of each objective: the share of bad events, as expressions over listed metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from mlplatform.model.definition import ModelDefinition
from mlplatform.observing.slo.objectives import AlertLimits, Tier, seconds
from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.telemetry.signals import Metric

Name = Literal[
    "availability", "latency", "deadline", "freshness", "log_completeness", "drift_check",
    "labels", "rollout",
]  # fmt: skip
SCORING: Final = "score|score_batch|rank|infer|grpc_Score|grpc_ScoreBatch|grpc_ModelInfer"
"""Operations that answer with decisions."""


@dataclass(frozen=True, slots=True)
class Events:
    """Rates of bad events and of all events, in which `{window}` stands for a range."""

    bad: str
    total: str


@dataclass(frozen=True, slots=True)
class Times:
    """An expression with value 1 while something is bad, and 0 otherwise."""

    bad: str


def of_model(model: ModelDefinition, limits: AlertLimits) -> dict[Name, Events | Times]:
    """The indicators of a model's objectives.

    Raises:
        ConfigInvalid: `latency_slo_ms` is not the edge of a bucket of the gateway's latency.
    """
    own = f'model="{model.name}"'
    decisions = rate(signals.DECISIONS, own)
    scoring = f'{own},operation=~"{SCORING}"'
    within = rate_of_bucket(model)
    return {
        "availability": Events(
            rate(signals.REQUESTS, f'{scoring},status=~"5.."'), rate(signals.REQUESTS, scoring)
        ),
        "latency": Events(
            f"({rate_of_count(own)} - {within})", rate_of_count(own)
        ),
        "deadline": Events(rate(signals.LATE, own), decisions),
        "freshness": Events(rate(signals.DEGRADED, f'{own},reason="features"'), decisions),
        "drift_check": Times(_older(signals.DRIFT_CHECK, own, limits.drift_check_late)),
        "labels": Times(
            f"max({signals.LABELS_LATE.name}{{{own}}}) > bool {limits.late_label_share:g}"
        ),
        "rollout": Times(_older(signals.ROLLOUT_PASS, own, limits.rollout_pass_late)),
    }  # fmt: skip


def of_installation() -> dict[Name, Events | Times]:
    """The indicators that belong to no single model."""
    refused = rate(signals.LOG_COUNTS["refused"])
    unlogged = rate(signals.LOG_COUNTS["unlogged"])
    accepted = rate(signals.LOG_COUNTS["accepted"])
    return {"log_completeness": Events(f"({refused} + {unlogged})", f"({accepted} + {refused})")}


def tier_of(models: list[ModelDefinition]) -> Literal[1, 2, 3]:
    """The tier of what models share: the strictest of their tiers."""
    return min(model.tier for model in models)


def rate(metric: Metric, labels: str = "") -> str:
    """The sum of a counter's rate over `{window}`."""
    chosen = f"{{{labels}}}" if labels else ""
    return f"sum(rate({metric.name}_total{chosen}[{{window}}]))"


def rate_of_count(labels: str) -> str:
    return f"sum(rate({signals.LATENCY.name}_count{{{labels}}}[{{window}}]))"


def rate_of_bucket(model: ModelDefinition) -> str:
    """The rate of decisions that took at most `latency_slo_ms`."""
    bound_s = model.latency_slo_ms / 1000
    if bound_s not in signals.LATENCY.buckets:
        wanted = ", ".join(f"{bound * 1000:g}" for bound in signals.LATENCY.buckets)
        source = f"{model.name}'s model.yaml: latency_slo_ms"
        raise ConfigInvalid(source, model.latency_slo_ms, f"a bucket of its histogram: {wanted}")
    labels = f'model="{model.name}",le="{bound_s}"'
    return f"sum(rate({signals.LATENCY.name}_bucket{{{labels}}}[{{window}}]))"


def names() -> tuple[str, ...]:
    """The names of all objectives, in the order of slo.yaml."""
    return Tier.__struct_fields__


def _older(metric: Metric, labels: str, than: str) -> str:
    return f"time() - max({metric.name}{{{labels}}}) > bool {seconds(than)}"
