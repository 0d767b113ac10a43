"""The autoscaler of a version: what it reads, and how it does on a day with a payday spike."""

from __future__ import annotations

import functools
import math
from typing import Any

import kubernetes_validate
import msgspec
import numpy as np
import promql_parser
import pytest

from mlplatform.model.folders import load_definition, model_folder, parse
from mlplatform.model.policies.serving import ScalingPolicy
from mlplatform.rollouts.serving.autoscaling import (
    BEHAVIOR,
    HOLD_ABOVE,
    declared_scaling,
    latency_p99_ms,
    queue_query,
    scaled_object,
)
from mlplatform.rollouts.serving.companions import autoscaler
from mlplatform.rollouts.serving.ignored_fields import AUTOSCALER, refuse_ignored
from mlplatform.rollouts.serving.manifest import LATENCY_ANNOTATION, QUEUED_ANNOTATION, render
from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.runtime.telemetry import signals
from models.fraud.generator import DAY_US, Population, generate
from support.horizontal_autoscaler import Autoscaler, Metric, wanted
from support.predictors_under_load import MOST, Day, LatencyMetric, Pods, live

FRAUD = load_definition("fraud")
POLICY = msgspec.structs.replace(FRAUD.serving.scaling or pytest.fail("fraud is not scaled"))
MANIFEST = render(FRAUD, 7, "0123456789abcdef" * 4, "s3://bundles/x", scales=True)
NAME = "fraud-v7-01234567"
URL = "http://prometheus.monitoring:9090"
PREDICTOR = {f"{m.name}{end}" for m in signals.METRICS["predictor"] for end in ("", "_bucket")}

PODS = Pods(rate_per_s=3000, queue_requests=FRAUD.serving.queue_requests, start_s=20)
"""A third of what a core gave in docs/performance.md; a cold start on a node that has the image."""
AVERAGE_PER_S = 6000.0
SPIKE_AT_S = 8 * 3600


def object_() -> dict[str, Any]:
    return scaled_object(MANIFEST, POLICY, URL)


# What it says


def test_the_deployment_of_that_version_is_scaled_between_the_models_limits() -> None:
    spec = object_()["spec"]

    assert spec["scaleTargetRef"]["name"] == f"{NAME}-predictor"
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (2, 24)


def test_a_manifest_says_all_that_its_autoscaler_is_made_from() -> None:
    refuse_ignored(MANIFEST)
    assert declared_scaling(MANIFEST) == POLICY
    # With "none" KServe would hold the Deployment to one number of pods, against the autoscaler.
    assert MANIFEST["metadata"]["annotations"][AUTOSCALER] == "external"
    assert MANIFEST["spec"]["predictor"]["minReplicas"] == POLICY.minimum_replicas


def test_the_autoscaler_goes_with_its_service() -> None:
    made = autoscaler(MANIFEST, "uid-1", URL)

    assert made is not None
    [owner] = made["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("InferenceService", NAME, "uid-1")
    assert made["spec"] == object_()["spec"]


@pytest.mark.parametrize(
    "manifest",
    [
        pytest.param(render(FRAUD, 7, "01" * 32, "s3://b/x"), id="the installation scales nothing"),
        pytest.param(
            render(
                msgspec.structs.replace(
                    FRAUD, serving=msgspec.structs.replace(FRAUD.serving, scaling=None)
                ),
                *(7, "01" * 32, "s3://b/x"),
                scales=True,
            ),
            id="the model asks for none",
        ),
    ],
)
def test_otherwise_the_number_of_pods_is_that_of_the_tier(manifest: dict[str, Any]) -> None:
    assert declared_scaling(manifest) is None
    assert autoscaler(manifest, "uid-1", URL) is None
    assert manifest["metadata"]["annotations"][AUTOSCALER] == "none"
    assert manifest["spec"]["predictor"]["minReplicas"] == 2
    assert "maxReplicas" not in manifest["spec"]["predictor"]


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (LATENCY_ANNOTATION, None),
        (LATENCY_ANNOTATION, "nan"),
        (LATENCY_ANNOTATION, "fast"),
        (QUEUED_ANNOTATION, "0"),
        (QUEUED_ANNOTATION, "1.5"),
    ],
)
def test_half_of_an_autoscaler_is_refused_by_name(annotation: str, value: str | None) -> None:
    manifest = msgspec.json.decode(msgspec.json.encode(MANIFEST))
    manifest["metadata"]["annotations"].pop(annotation)
    if value is not None:
        manifest["metadata"]["annotations"][annotation] = value

    with pytest.raises(ConfigInvalid, match=annotation):
        declared_scaling(manifest)


def test_every_query_reads_metrics_of_predictors_of_this_version_alone() -> None:
    for trigger in object_()["spec"]["triggers"]:
        selectors = _selectors(promql_parser.parse(trigger["metadata"]["query"]))
        assert selectors
        for name, matchers in selectors:
            assert name in PREDICTOR
            assert matchers == [("service", NAME)]


def test_a_challenger_and_its_champion_are_scaled_by_different_queries() -> None:
    other = render(FRAUD, 8, "fedcba9876543210" * 4, "s3://bundles/y")

    mine, theirs = (
        {t["metadata"]["query"] for t in scaled_object(m, POLICY, URL)["spec"]["triggers"]}
        for m in (MANIFEST, other)
    )

    assert not mine & theirs


def test_the_thresholds_are_those_of_model_yaml() -> None:
    queue, latency = object_()["spec"]["triggers"]

    assert (queue["metricType"], queue["metadata"]["threshold"]) == ("AverageValue", "10")
    assert (latency["metricType"], latency["metadata"]["threshold"]) == ("Value", "8")
    assert {t["metadata"]["ignoreNullValues"] for t in (queue, latency)} == {"false"}


def test_the_behaviour_is_one_that_kubernetes_takes() -> None:
    autoscaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "x"},
        "spec": {
            "scaleTargetRef": object_()["spec"]["scaleTargetRef"],
            "maxReplicas": 3,
            "behavior": BEHAVIOR,
        },
    }

    kubernetes_validate.validate(autoscaler, "1.34", strict=True)
    autoscaler["spec"]["behavior"] = {"scaleUp": {"stabilisationWindowSeconds": 30}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(autoscaler, "1.34", strict=True)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("minimum_replicas: 2", "minimum_replicas: 25", "minimum_replicas"),
        ("queued_requests: 10", "queued_requests: 256", "queued_requests"),
        ("minimum_replicas: 2", "minimum_replicas: 0", "minimum_replicas"),
    ],
)
def test_limits_that_cannot_be_are_refused_by_key(old: str, new: str, named: str) -> None:
    text = (model_folder("fraud") / "model.yaml").read_text()
    assert old in text

    with pytest.raises(ConfigInvalid, match=named):
        parse(text.replace(old, new), "model.yaml")


def test_a_model_without_limits_is_not_scaled() -> None:
    assert msgspec.structs.replace(FRAUD.serving, scaling=None).scaling is None
    assert isinstance(FRAUD.serving.scaling, ScalingPolicy)


# The autoscaler's arithmetic


@pytest.mark.parametrize(
    ("metrics", "pods"),
    [
        ([Metric(40, 10, is_average=True)], 4),
        ([Metric(43, 10, is_average=True)], 4),  # within a tenth
        ([Metric(45, 10, is_average=True)], 5),
        ([Metric(16, 8, is_average=False)], 8),
        ([Metric(40, 10, is_average=True), Metric(12, 8, is_average=False)], 6),
        ([Metric(0, 10, is_average=True), None], 4),  # nothing is taken away half blind
        ([Metric(80, 10, is_average=True), None], 8),
        ([None, None], 4),
    ],
)
def test_what_metrics_ask_for(metrics: list[Metric | None], pods: int) -> None:
    assert wanted(4, metrics) == pods


def test_pods_rise_by_half_a_minute_after_half_a_minute() -> None:
    autoscaler = Autoscaler(1, 100, BEHAVIOR)
    autoscaler.next(0, 4, [Metric(4, 1, is_average=True)])
    pods = 4
    seen = {}
    for now in range(15, 165, 15):
        pods = autoscaler.next(now, pods, [Metric(100, 1, is_average=True)])
        seen[now] = pods

    assert [seen[t] for t in (15, 30, 45, 60, 90, 105, 150)] == [4, 6, 6, 6, 9, 9, 14]


def test_pods_fall_by_a_tenth_in_two_minutes_after_five() -> None:
    autoscaler = Autoscaler(1, 100, BEHAVIOR)
    autoscaler.next(0, 20, [Metric(20, 1, is_average=True)])
    pods, seen = 20, {}
    for now in range(15, 700, 15):
        pods = autoscaler.next(now, pods, [Metric(1, 1, is_average=True)])
        seen[now] = pods

    assert [seen[t] for t in (285, 300, 405, 420, 540, 660)] == [20, 18, 18, 16, 14, 12]


# A day


@functools.cache
def day_per_s(spike: float) -> tuple[float, ...]:
    """Requests in each second of a payday: payments of the generator by the minute, times a spike.

    Salaries arrive at eight: within three minutes `spike` times as much, and back in an hour.
    """
    payments = Population(payments_per_day=200_000)
    table = generate(seed=11, start_ms=1_700_006_400_000, days=1, population=payments)
    at_us = table.column("event_time").cast("int64").to_numpy() % DAY_US
    by_minute = np.bincount(at_us // 60_000_000, minlength=1440)[:1440]
    per_s = np.repeat(by_minute * AVERAGE_PER_S * 1440 / by_minute.sum(), 60)
    seconds = np.arange(len(per_s)) - SPIKE_AT_S
    rise = np.clip(seconds / 180, 0, 1) * np.exp(-np.clip(seconds - 180, 0, None) / 1200)
    return tuple(per_s * (1 + (spike - 1) * rise))


def with_band(p99_ms: float) -> Metric:
    """What the rendered query gives."""
    target = POLICY.latency_p99_ms
    if math.isnan(p99_ms):
        return Metric(target, target, is_average=False)
    held = target if p99_ms > HOLD_ABOVE * target else 0.0
    return Metric(p99_ms if p99_ms > target else held, target, is_average=False)


def without_band(p99_ms: float) -> Metric:
    return Metric(p99_ms, POLICY.latency_p99_ms, is_average=False)


@functools.cache
def lived(spike: float, latency: LatencyMetric = with_band, blind: range = range(0)) -> Day:
    autoscaler = Autoscaler(POLICY.minimum_replicas, POLICY.maximum_replicas, BEHAVIOR)
    return live(day_per_s(spike), PODS, autoscaler, POLICY.queued_requests, latency, blind)


def test_the_simulation_reads_what_the_query_says() -> None:
    query = latency_p99_ms(NAME, POLICY.latency_p99_ms)

    assert "> 8)" in query
    assert f"> bool {8 * HOLD_ABOVE:g}) * 8" in query
    assert query.endswith("or vector(8)")
    assert queue_query(NAME) == f'sum(mlplatform_predictor_queue_depth{{service="{NAME}"}})'


@pytest.mark.parametrize("spike", [1.0, 3.0])
def test_pods_do_not_swing(spike: float) -> None:
    assert lived(spike).swings() <= 4


def test_without_its_band_the_same_policy_swings_all_day() -> None:
    assert lived(1.0, without_band).swings() > 10 * lived(1.0).swings()


def test_a_payday_is_late_for_minutes_and_refuses_next_to_nothing() -> None:
    day = lived(3.0)
    late_s = sum(ms > FRAUD.latency_slo_ms for ms in day.latency_p99_ms)

    assert max(day.waiting_a_pod) <= PODS.queue_requests + MOST**2 / (1 - MOST)
    assert 0 < late_s < 300
    assert 0 < day.refused / day.asked < 0.001


def test_what_the_spike_asks_for_is_reached_within_six_minutes() -> None:
    day = lived(3.0)
    until = SPIKE_AT_S + 360

    assert all(ms <= FRAUD.latency_slo_ms for ms in day.latency_p99_ms[until : until + 7200])
    assert max(day.pods) < POLICY.maximum_replicas


def test_it_costs_a_fourth_of_keeping_the_pods_of_the_spike_all_day() -> None:
    day = lived(3.0)

    assert day.pod_hours < 0.25 * max(day.pods) * 24
    assert day.pod_hours < 1.1 * lived(1.0).pod_hours


def test_an_hour_without_prometheus_takes_no_pod_away() -> None:
    blind = range(19 * 3600, 20 * 3600)
    pods = lived(1.0, with_band, blind).pods

    assert pods[blind.stop - 1] >= pods[blind.start]


def _selectors(node: Any) -> list[tuple[str, list[tuple[str, str]]]]:
    """Every selector of a parsed query: its metric, and the labels that it asks for."""
    if isinstance(node, promql_parser.VectorSelector):
        return [(node.name, [(m.name, m.value) for m in node.matchers.matchers])]
    parts = [getattr(node, part, None) for part in ("expr", "lhs", "rhs", "vector_selector")]
    parts += list(getattr(node, "args", None) or [])
    return [found for part in parts if part is not None for found in _selectors(part)]
