"""The autoscaler that KServe makes of a service on its own reads what its pods really use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from tests.cluster import metrics
from tests.cluster.standin.controller import MADE

from mlplatform.model.folders import load_definition
from mlplatform.rollouts.kubernetes.api import INFERENCE_SERVICES
from mlplatform.rollouts.kubernetes.quantities import quantity
from support.kserve_world import KServe, test_cluster
from support.platform_process import wait

NAMESPACE = "metrics"
PODS = f"/apis/metrics.k8s.io/v1beta1/namespaces/{NAMESPACE}/pods"
READ_S = 180.0
"""The autoscaler looks every 15 s, metrics-server every 10 s, and a rate takes two looks."""


@pytest.fixture(scope="module")
def world() -> Iterator[KServe]:
    if not metrics.is_built(test_cluster()[1]):
        pytest.skip("METRICS-SERVER IS NOT TESTED: FULL=1 make test-cluster builds it")
    made = KServe(msgspec.structs.replace(load_definition("fraud"), tier=3), NAMESPACE)
    yield made
    made.close()


@pytest.fixture
def name(world: KServe) -> Iterator[str]:
    """A service as others write it: KServe's default autoscaler, by processor time."""
    manifest = world.manifest(1)
    manifest["metadata"]["annotations"].pop("serving.kserve.io/autoscalerClass")
    manifest["spec"]["predictor"] |= {"minReplicas": 1, "maxReplicas": 2}
    found = str(manifest["metadata"]["name"])
    path = INFERENCE_SERVICES.path(NAMESPACE, found)
    world.api.apply(path, manifest, manager="tests")
    world.until_ready(found)
    yield found
    world.api.delete(path)
    world.end_pods()


def test_it_scales_by_the_processor_time_that_is_measured(world: KServe, name: str) -> None:
    path = MADE["HorizontalPodAutoscaler"].path(NAMESPACE, f"{name}-predictor")

    def read() -> dict[str, Any]:
        status: dict[str, Any] = world.api.get(path).get("status", {})
        return status

    def active() -> bool:
        told = {c["type"]: c["status"] for c in read().get("conditions", [])}
        return told.get("ScalingActive") == "True"

    wait(active, "a reading", within_s=READ_S)
    [metric] = read()["currentMetrics"]
    assert metric["resource"]["name"] == "cpu"
    assert metric["resource"]["current"]["averageUtilization"] >= 0
    [pod] = [p for p in world.api.items(PODS) if p["metadata"]["name"].startswith(name)]
    used = sum(quantity(c["usage"]["memory"]) for c in pod["containers"])
    assert 10 * 2**20 < used < 2**31
