"""A version whose pods an autoscaler counts: KEDA's definition is its own, its operator is not run.

The test does what the operator's HorizontalPodAutoscaler does: it scales the Deployment.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from tests.cluster.kserve import PLURALS, apply_definition, documents
from tests.cluster.layout import layout

from mlplatform.model.folders import load_definition
from mlplatform.rollouts.kubernetes.api import DEPLOYMENTS, INFERENCE_SERVICES, SCALED_OBJECTS
from mlplatform.rollouts.serving.kserve import KServePlane
from mlplatform.rollouts.serving.manifest import render
from mlplatform.runtime.errors import Refused
from support.kserve_world import KServe
from support.platform_process import wait

NAMESPACE = "scaling"
DEFINITION = f"{PLURALS['CustomResourceDefinition']}/scaledobjects.keda.sh"
PROMETHEUS = "http://prometheus.monitoring:9090"
FRAUD = load_definition("fraud")
SCALING = msgspec.structs.replace(
    FRAUD.serving.scaling or pytest.fail("fraud is not scaled"),
    minimum_replicas=1,
    maximum_replicas=3,
)
SMALL = msgspec.structs.replace(
    FRAUD, tier=3, serving=msgspec.structs.replace(FRAUD.serving, scaling=SCALING)
)


@pytest.fixture(scope="module")
def world() -> Iterator[KServe]:
    made = KServe(SMALL, NAMESPACE)
    made.plane = KServePlane(made.api, NAMESPACE, prometheus_url=PROMETHEUS)
    yield made
    made.close()


@pytest.fixture
def keda(world: KServe) -> Iterator[None]:
    """KEDA's definition of a ScaledObject; one that is there already is left as it is."""
    if world.api.find(DEFINITION) is not None:
        yield
        return
    for document in documents([layout().cache / "keda"], "CustomResourceDefinition"):
        apply_definition(world.api, document)
    wait(lambda: world.api.serves(SCALED_OBJECTS), "ScaledObjects", within_s=30)
    yield
    world.close()
    world.api.delete(DEFINITION)
    wait(lambda: world.api.find(DEFINITION) is None, "the end of the definition", within_s=60)


def scaled(world: KServe, version: int) -> dict[str, Any]:
    fixed = world.manifest(version)
    uri = fixed["spec"]["predictor"]["model"]["storageUri"]
    digest = fixed["metadata"]["annotations"]["mlplatform/bundle-digest"]
    return render(SMALL, version, digest, uri, scales=True)


def test_without_keda_a_service_to_be_scaled_is_refused_before_anything_is_made(
    world: KServe,
) -> None:
    if world.api.find(DEFINITION) is not None:
        pytest.skip("THIS CLUSTER HAS KEDA: what happens without it is not tested")

    with pytest.raises(Refused, match=r"no scaledobjects .* install KEDA, .* nothing was changed"):
        world.plane.apply(scaled(world, 1))

    assert world.plane.names() == []


def test_without_the_address_of_its_metrics_it_is_refused(world: KServe) -> None:
    plane = KServePlane(world.api, NAMESPACE)

    with pytest.raises(Refused, match="MLPLATFORM_KSERVE_PROMETHEUS"):
        plane.apply(scaled(world, 2))

    assert plane.names() == []


@pytest.mark.usefixtures("keda")
def test_its_pods_are_those_that_the_autoscaler_asks_for(world: KServe) -> None:
    manifest = scaled(world, 3)
    name = manifest["metadata"]["name"]
    world.plane.apply(manifest)
    wait(lambda: world.plane.status(name).ready, name, within_s=KServe.deadline_s)

    target = world.api.get(SCALED_OBJECTS.path(NAMESPACE, name))["spec"]["scaleTargetRef"]["name"]
    deployment = DEPLOYMENTS.path(NAMESPACE, target)
    world.api.merge(f"{deployment}/scale", {"spec": {"replicas": 2}})

    def two_ready() -> bool:
        return bool(world.api.get(deployment)["status"].get("readyReplicas") == 2)

    wait(two_ready, "a second pod", within_s=KServe.deadline_s)
    world.plane.apply(manifest)
    # Whatever KServe's controller does by an edit, it has done once it shows on the Deployment.
    world.api.merge(
        INFERENCE_SERVICES.path(NAMESPACE, name),
        {"spec": {"predictor": {"annotations": {"tests/again": "1"}}}},
    )
    wait(lambda: _edited(world, deployment), "the edit", within_s=KServe.deadline_s)
    assert world.api.get(deployment)["spec"]["replicas"] == 2


@pytest.mark.usefixtures("keda")
def test_its_autoscaler_is_written_again_where_it_is_lost_and_goes_with_it(world: KServe) -> None:
    manifest = scaled(world, 4)
    path = SCALED_OBJECTS.path(NAMESPACE, manifest["metadata"]["name"])
    world.plane.apply(manifest)
    world.api.delete(path)
    world.plane.apply(manifest)
    assert world.api.get(path)["spec"]["maxReplicaCount"] == 3

    world.plane.remove(manifest["metadata"]["name"])

    wait(lambda: world.api.find(path) is None, "the end of the autoscaler", within_s=60)


def _edited(world: KServe, deployment: str) -> bool:
    template = world.api.get(deployment)["spec"]["template"]
    return bool(template["metadata"].get("annotations", {}).get("tests/again") == "1")
