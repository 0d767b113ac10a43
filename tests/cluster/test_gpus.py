"""GPU manifests on the real scheduler, on a node that offers fake GPUs and slices of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import yaml
from tests.cluster.layout import ROOT

from mlplatform.model.folders import load_definition
from mlplatform.model.policies.training import GpuPolicy
from mlplatform.rollouts.kubernetes.api import INFERENCE_SERVICES, PODS, KubernetesApi
from mlplatform.rollouts.serving.kserve import KServePlane
from mlplatform.rollouts.serving.manifest import render
from mlplatform.rollouts.serving.placement import DEVELOPMENT, PRODUCTION
from mlplatform.runtime.errors import Refused
from support.kserve_world import KServe
from support.platform_process import wait

SLICE = "nvidia.com/mig-1g.10gb"
FRAUD = msgspec.structs.replace(load_definition("fraud"), accelerator="cuda")
NAMESPACE = "gpus"
CLASSES = "/apis/scheduling.k8s.io/v1/priorityclasses"
SHARE = GpuPolicy(resource="nvidia.com/gpu.shared")
# A predictor beside a real GPU asks for far more than this node has; what is tested is the GPU.
LITTLE = {"cpu": "10m", "memory": "64Mi"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[KServe]:
    made = KServe(FRAUD, NAMESPACE)
    offer(made.api, {"nvidia.com/gpu": "2", SLICE: "1"})
    yield made
    offer(made.api, {"nvidia.com/gpu": "0", SLICE: "0"})
    made.close()


@pytest.fixture
def world(cluster: KServe) -> Iterator[KServe]:
    yield cluster
    cluster.close()


def offer(api: KubernetesApi, gpus: dict[str, str]) -> None:
    """Have the node say that it has these; no device is behind them."""
    [node] = api.items("/api/v1/nodes")
    status = {"capacity": gpus, "allocatable": gpus}
    api.merge(f"/api/v1/nodes/{node['metadata']['name']}/status", {"status": status})


def until(holds: Any, what: str = "") -> None:
    wait(holds, what, within_s=KServe.deadline_s)


def manifest(version: int, pods: int = 1, **changes: Any) -> dict[str, Any]:
    definition = msgspec.structs.replace(FRAUD, **changes)
    made = render(definition, version, f"{version}" * 64, f"pvc://bundles/bundle-{version}")
    predictor = made["spec"]["predictor"]
    predictor["minReplicas"] = pods
    for part in predictor["model"]["resources"].values():
        part.update(LITTLE)
    return made


def placed(world: KServe, name: str) -> int:
    """Pods that the scheduler has put on a node."""
    return sum(1 for pod in world.pods(name) if pod["spec"].get("nodeName"))


def test_pods_are_placed_one_a_gpu_and_no_more_than_there_are(world: KServe) -> None:
    made = manifest(1, pods=2)
    name = made["metadata"]["name"]

    world.plane.apply(made)

    until(lambda: placed(world, name) == 2)


def test_more_than_is_free_is_refused_with_the_numbers_and_changes_nothing(world: KServe) -> None:
    first, second = manifest(2, pods=1), manifest(3, pods=2)
    world.plane.apply(first)
    until(lambda: placed(world, first["metadata"]["name"]) == 1)

    with pytest.raises(
        Refused, match=r"2 pods with 1 nvidia.com/gpu each, and there is room for 1"
    ):
        world.plane.apply(second)

    assert second["metadata"]["name"] not in world.plane.names()


def test_without_the_count_the_scheduler_itself_lets_it_wait(world: KServe) -> None:
    made = manifest(4, pods=3)
    name = made["metadata"]["name"]
    plane = KServePlane(world.api, NAMESPACE, counts_gpus=False)

    plane.apply(made)

    until(lambda: placed(world, name) == 2)
    pods = [pod["metadata"]["name"] for pod in world.pods(name)]
    until(lambda: any("Insufficient nvidia.com/gpu" in refusal(world, pod) for pod in pods))


def test_production_displaces_development_and_never_the_other_way_round(world: KServe) -> None:
    pods = [development_pod(world, f"development-{n}") for n in range(2)]
    until(lambda: all(node_of(world, t) for t in pods), "pods are placed")
    made = manifest(5)
    name = made["metadata"]["name"]

    world.plane.apply(made)

    until(lambda: placed(world, name) == 1, "production is placed")
    until(lambda: sum(1 for t in pods if node_of(world, t)) == 1, "one pod had to go")
    late = development_pod(world, "late")
    until(lambda: "Insufficient nvidia.com/gpu" in refusal(world, late))
    assert placed(world, name) == 1


def test_a_slice_is_placed_on_its_own_count_and_not_on_whole_gpus(world: KServe) -> None:
    sliced = GpuPolicy(resource=SLICE)
    first, second = manifest(6, gpu=sliced), manifest(7, gpu=sliced)
    world.plane.apply(first)
    until(lambda: placed(world, first["metadata"]["name"]) == 1)

    with pytest.raises(Refused, match=r"1 nvidia.com/mig-1g.10gb each, .* of which 1 are taken"):
        world.plane.apply(second)


def test_a_share_that_no_node_offers_is_refused(world: KServe) -> None:
    with pytest.raises(Refused, match=r"have 0 nvidia.com/gpu.shared"):
        world.plane.apply(manifest(8, gpu=SHARE))


def test_a_kind_of_gpu_that_no_node_has_is_refused(world: KServe) -> None:
    other = GpuPolicy(resource="nvidia.com/gpu", product="NVIDIA-H100")

    with pytest.raises(Refused, match="0 of 1 nodes suit it"):
        world.plane.apply(manifest(9, gpu=other))


def test_a_quota_refuses_before_anything_is_made(world: KServe) -> None:
    path = f"/api/v1/namespaces/{NAMESPACE}/resourcequotas/team"
    body = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "team"},
        "spec": {"hard": {"requests.nvidia.com/gpu": "1"}},
    }
    world.api.apply(path, body)
    until(lambda: "used" in world.api.get(path).get("status", {}))
    made = manifest(1, pods=2)
    try:
        with pytest.raises(Refused, match="the quota team allows 1, and 0 are used"):
            world.plane.apply(made)
        assert world.api.find(INFERENCE_SERVICES.path(NAMESPACE, made["metadata"]["name"])) is None
    finally:
        world.api.delete(path)


@pytest.fixture
def teams(world: KServe) -> Iterator[None]:
    """Two teams, of which one may hold one GPU: what an installation has in its teams.yaml."""
    [kind, quota] = yaml.safe_load_all(
        (ROOT / "platform/manifests/overlays/example/teams.yaml").read_text()
    )
    quota["metadata"]["namespace"] = NAMESPACE
    quota["spec"]["hard"] = {"requests.nvidia.com/gpu": "1", "pods": "5"}
    name = quota["metadata"]["name"]
    paths = {
        f"/api/v1/namespaces/{NAMESPACE}/resourcequotas/{name}": quota,
        f"{CLASSES}/{PRODUCTION}-payments": kind,
        f"{CLASSES}/{PRODUCTION}-lending": kind | {"metadata": {"name": f"{PRODUCTION}-lending"}},
    }
    for path, body in paths.items():
        world.api.apply(path, body)
    until(lambda: "used" in world.api.get(next(iter(paths))).get("status", {}))
    yield
    for path in paths:
        world.api.delete(path)


def used(world: KServe) -> dict[str, str]:
    """As the quota's controller counts."""
    path = f"/api/v1/namespaces/{NAMESPACE}/resourcequotas/team-payments"
    return dict(world.api.get(path)["status"]["used"])


@pytest.mark.usefixtures("teams")
def test_a_teams_quota_holds_its_own_models_and_nobody_elses(world: KServe) -> None:
    """The API server counts GPUs by PriorityClass, and the platform refuses what it would."""
    first, second = manifest(1, team="payments"), manifest(2, team="payments")
    other = manifest(3, team="lending")

    world.plane.apply(first)
    until(lambda: placed(world, first["metadata"]["name"]) == 1)
    until(lambda: used(world) == {"requests.nvidia.com/gpu": "1", "pods": "1"})
    with pytest.raises(Refused, match=r"1 nvidia.com/gpu; the quota team-payments allows 1, and 1"):
        world.plane.apply(second)
    world.plane.apply(other)

    until(lambda: placed(world, other["metadata"]["name"]) == 1)
    assert second["metadata"]["name"] not in world.plane.names()
    assert used(world) == {"requests.nvidia.com/gpu": "1", "pods": "1"}


@pytest.mark.usefixtures("teams")
def test_the_api_server_itself_holds_a_team_to_its_quota(world: KServe) -> None:
    """Whoever is past the platform's own count, or races it, gets no pod."""
    world.plane.apply(manifest(1, team="payments"))
    until(lambda: used(world)["pods"] == "1")
    container = {"name": "x", "image": "mlplatform.test/pause:1"}
    container |= {"resources": {"requests": LITTLE, "limits": LITTLE | {"nvidia.com/gpu": "1"}}}
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "past-it"},
        "spec": {"containers": [container], "priorityClassName": f"{PRODUCTION}-payments"},
    }

    with pytest.raises(Refused, match="exceeded quota: team-payments"):
        world.api.create(PODS.path(NAMESPACE), body)


@pytest.mark.usefixtures("teams")
def test_a_model_without_gpus_is_held_to_the_quotas_too(world: KServe) -> None:
    made = manifest(4, pods=6, accelerator="cpu", team="payments")

    with pytest.raises(Refused, match="asks for 6 pods; the quota team-payments allows 5"):
        world.plane.apply(made)

    assert made["metadata"]["name"] not in world.plane.names()


def development_pod(world: KServe, name: str) -> str:
    container = {
        "name": "development",
        "image": "mlplatform.test/pause:1",
        "imagePullPolicy": "IfNotPresent",
        "resources": {"requests": LITTLE, "limits": {"nvidia.com/gpu": "1"}},
    }
    spec = {
        "containers": [container],
        "priorityClassName": DEVELOPMENT,
        "terminationGracePeriodSeconds": 1,
    }
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    world.api.create(PODS.path(NAMESPACE), body)
    return name


def node_of(world: KServe, pod: str) -> str | None:
    found = world.api.find(PODS.path(NAMESPACE, pod))
    if found is None or found["metadata"].get("deletionTimestamp"):
        return None
    node: str | None = found["spec"].get("nodeName")
    return node


def refusal(world: KServe, pod: str) -> str:
    found = world.api.get(PODS.path(NAMESPACE, pod))
    conditions = found["status"].get("conditions", [])
    return " ".join(c.get("message", "") for c in conditions if c["type"] == "PodScheduled")
