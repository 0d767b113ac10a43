"""What the KServe plane does beside its contract, on a real API server with real pods."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from mlplatform.model.folders import load_definition
from mlplatform.rollouts.kubernetes.api import DISRUPTION_BUDGETS, INFERENCE_SERVICES
from mlplatform.rollouts.kubernetes.quantities import quantity
from mlplatform.rollouts.serving.kserve import MANIFEST_DIGEST, KServePlane
from mlplatform.rollouts.serving.manifest import render
from mlplatform.runtime.errors import ConfigInvalid, Refused
from support.kserve_world import OnKServe, on_any_cluster
from support.platform_process import wait

FRAUD = load_definition("fraud")
SMALL = msgspec.structs.replace(FRAUD, tier=3)


@pytest.fixture(scope="module")
def shared_world() -> Iterator[OnKServe]:
    made = on_any_cluster(SMALL, "kserve-plane")
    yield made
    made.close()


@pytest.fixture
def world(shared_world: OnKServe) -> Iterator[OnKServe]:
    yield shared_world
    shared_world.close()


def until(holds: Any, what: str = "") -> None:
    wait(holds, what, within_s=OnKServe.deadline_s)


def name_of(manifest: dict[str, Any]) -> str:
    return str(manifest["metadata"]["name"])


def conditions(found: dict[str, Any]) -> set[tuple[str, str]]:
    return {(c["type"], c["status"]) for c in found.get("status", {}).get("conditions", [])}


def path_of(world: OnKServe, manifest: dict[str, Any]) -> str:
    return INFERENCE_SERVICES.path(world.namespace, name_of(manifest))


def test_of_many_that_race_with_one_name_one_manifest_stays(world: OnKServe) -> None:
    manifests = [world.manifest(1) for _ in range(8)]
    for number, manifest in enumerate(manifests):
        manifest["spec"]["predictor"]["model"]["args"] = [f"--queue-limit={number + 1}"]
    refused: list[int] = []

    def apply(number: int) -> None:
        try:
            KServePlane(world.api, world.namespace).apply(manifests[number])
        except Refused:
            refused.append(number)

    threads = [threading.Thread(target=apply, args=(n,)) for n in range(len(manifests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    [winner] = set(range(len(manifests))) - set(refused)
    found = world.api.get(path_of(world, manifests[0]))
    assert found["spec"]["predictor"]["model"]["args"] == [f"--queue-limit={winner + 1}"]


def test_a_field_that_somebody_changed_is_not_overruled_but_told(world: OnKServe) -> None:
    manifest = world.manifest(2)
    world.plane.apply(manifest)
    body = {
        "apiVersion": manifest["apiVersion"],
        "kind": manifest["kind"],
        "spec": {"predictor": {"minReplicas": 2}},
    }
    world.api.apply(path_of(world, manifest), body, force=True, manager="somebody")

    with pytest.raises(Refused, match=r"somebody.*minReplicas"):
        world.plane.apply(manifest)


def test_applying_again_restores_what_was_lost(world: OnKServe) -> None:
    manifest = msgspec.json.decode(msgspec.json.encode(world.manifest(3)))
    manifest["spec"]["predictor"]["minReplicas"] = 2
    world.plane.apply(manifest)
    budget = DISRUPTION_BUDGETS.path(world.namespace, name_of(manifest))
    assert world.api.get(budget)["spec"]["maxUnavailable"] == 1
    world.api.delete(budget)

    world.plane.apply(manifest)

    assert world.api.find(budget) is not None


def test_a_budget_goes_with_its_service(world: OnKServe) -> None:
    manifest = world.manifest(4)
    manifest["spec"]["predictor"]["minReplicas"] = 2
    world.plane.apply(manifest)
    budget = DISRUPTION_BUDGETS.path(world.namespace, name_of(manifest))

    world.plane.remove(name_of(manifest))

    until(lambda: world.api.find(budget) is None)


def test_services_of_others_are_neither_listed_nor_taken_over(world: OnKServe) -> None:
    foreign = world.manifest(5)
    foreign["metadata"]["labels"] = {}
    world.api.create(INFERENCE_SERVICES.path(world.namespace), foreign)
    try:
        assert name_of(foreign) not in world.plane.names()
        with pytest.raises(Refused, match="another manifest"):
            world.plane.apply(world.manifest(5))
    finally:
        world.api.delete(path_of(world, foreign))


def test_what_was_applied_is_written_on_the_service(world: OnKServe) -> None:
    manifest = world.manifest(6)
    before = copy.deepcopy(manifest)

    world.plane.apply(manifest)

    assert manifest == before
    assert MANIFEST_DIGEST in world.api.get(path_of(world, manifest))["metadata"]["annotations"]


def test_a_bundle_that_no_pod_can_read_is_refused_before_anything_is_made(world: OnKServe) -> None:
    manifest = render(SMALL, 7, "0" * 64, "file:///bundles/x")

    with pytest.raises(ConfigInvalid, match="where pods can read it"):
        world.plane.apply(manifest)

    assert world.plane.names() == []


def test_a_missing_image_is_told_as_a_failure(world: OnKServe) -> None:
    manifest = world.manifest(8)
    manifest["spec"]["predictor"]["model"]["image"] = "mlplatform.test/nothing:1"

    world.plane.apply(manifest)

    until(lambda: world.plane.status(name_of(manifest)).failed)
    assert (
        "image mlplatform.test/nothing:1 can't be had"
        in world.plane.status(name_of(manifest)).reason
    )


def test_a_gpu_that_no_node_has_is_told_with_the_schedulers_numbers(world: OnKServe) -> None:
    nodes = world.api.items("/api/v1/nodes")
    if any(quantity(n["status"]["allocatable"].get("nvidia.com/gpu", 0)) for n in nodes):
        pytest.skip("THE CLUSTER HAS GPUs: that there is none is not tested")
    definition = msgspec.structs.replace(SMALL, accelerator="cuda")
    manifest = render(definition, 9, "9" * 64, "pvc://bundles/bundle-9")
    plane = KServePlane(world.api, world.namespace, counts_gpus=False)

    plane.apply(manifest)

    told = "Insufficient nvidia.com/gpu"
    until(lambda: told in plane.status(name_of(manifest)).reason)
    assert not plane.status(name_of(manifest)).failed
    # KServe calls it ready: one pod of one may be away where there is no spare GPU.
    path = path_of(world, manifest)
    until(lambda: ("Ready", "True") in conditions(world.api.get(path)))
    assert not plane.status(name_of(manifest)).ready


def test_a_model_that_takes_too_much_memory_is_told_so(world: OnKServe) -> None:
    manifest = world.manifest(10)
    limits = {"requests": {"cpu": "100m", "memory": "24Mi"}, "limits": {"memory": "24Mi"}}
    manifest["spec"]["predictor"]["model"]["resources"] = limits

    world.plane.apply(manifest)

    until(lambda: "memory limit of 24Mi" in world.plane.status(name_of(manifest)).reason)


def test_a_load_past_its_deadline_is_told_so(world: OnKServe) -> None:
    manifest = world.manifest(11)
    probe = manifest["spec"]["predictor"]["model"]["startupProbe"]
    probe["failureThreshold"], probe["httpGet"]["path"] = 2, "/never"

    world.plane.apply(manifest)

    told = "no answer within 2 s of its start"
    until(lambda: told in world.plane.status(name_of(manifest)).reason)


def test_a_runtime_that_is_not_there_is_told_as_a_failure(world: OnKServe) -> None:
    manifest = world.manifest(12)
    manifest["spec"]["predictor"]["model"]["protocolVersion"] = "v1"

    world.plane.apply(manifest)

    until(lambda: world.plane.status(name_of(manifest)).failed)
    assert "NoSupportingRuntime" in world.plane.status(name_of(manifest)).reason
