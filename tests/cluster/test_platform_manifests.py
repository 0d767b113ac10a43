"""The platform's own manifests on a real API server: rights suffice, and go no further."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from tests.cluster.layout import ROOT

from mlplatform.model.folders import load_definition
from mlplatform.rollouts.kubernetes.api import INFERENCE_SERVICES, KubernetesApi
from mlplatform.rollouts.serving.kserve import KServePlane
from mlplatform.rollouts.serving.manifest import DIGEST_ANNOTATION
from mlplatform.runtime.errors import Refused
from support.kserve_world import KServe, test_cluster
from support.platform_process import wait

MANIFESTS = ROOT / "platform" / "manifests"
MODELS = "mlplatform-models"
SMALL = msgspec.structs.replace(load_definition("fraud"), tier=3)


@pytest.fixture(scope="module")
def world() -> Iterator[KServe]:
    """The manifests applied as a user would, and a volume of bundles beside them."""
    _, place = test_cluster()
    kubectl = [str(place.bin / "kubectl"), f"--kubeconfig={place.kubeconfig}"]
    subprocess.run([*kubectl, "apply", "--server-side", "-k", str(MANIFESTS / "base")], check=True)
    made = KServe(SMALL, MODELS)
    yield made
    made.close()


@pytest.fixture
def rollouts(world: KServe, tmp_path: Path) -> KubernetesApi:
    """The API as the account that passes over rollouts use."""
    path = "/api/v1/namespaces/mlplatform/serviceaccounts/rollouts/token"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = world.api.create(path, body)["status"]["token"]
    kubeconfig = yaml.safe_load(test_cluster()[1].kubeconfig.read_text())
    kubeconfig["users"][0]["user"] = {"token": token}
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(kubeconfig))
    return KubernetesApi.connect(str(file), namespace=MODELS)


def test_the_rights_of_rollouts_suffice_to_deploy_watch_and_retire(
    world: KServe, rollouts: KubernetesApi
) -> None:
    manifest = world.manifest(1)
    name = manifest["metadata"]["name"]
    plane = KServePlane(rollouts, MODELS)

    plane.apply(manifest)
    plane.apply(manifest)
    wait(lambda: plane.status(name).ready, name, within_s=world.deadline_s)
    plane.remove(name)

    assert name not in plane.names()


def test_restricted_pods_are_what_the_predictor_runs_as(world: KServe) -> None:
    manifest = world.manifest(2)
    name = manifest["metadata"]["name"]
    world.plane.apply(manifest)
    wait(lambda: world.plane.status(name).ready, name, within_s=world.deadline_s)

    process = Path(f"/proc/{world.pid(name)}")
    status, told = (process / "status").read_text(), (process / "environ").read_bytes()
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)

    assert facts["Uid"].split()[0] == "65532"
    assert int(facts["CapEff"], 16) == 0
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
    assert b"MLPLATFORM_LOG_LEVEL=info" in told.split(b"\0")
    world.plane.remove(name)


@pytest.mark.parametrize(
    ("verb", "group", "resource", "allowed"),
    [
        ("create", "serving.kserve.io", "inferenceservices", True),
        ("delete", "serving.kserve.io", "inferenceservices", True),
        ("create", "keda.sh", "scaledobjects", True),
        ("patch", "keda.sh", "scaledobjects", True),
        ("delete", "keda.sh", "scaledobjects", False),
        ("list", "", "pods", True),
        ("delete", "", "pods", False),
        ("create", "", "pods/exec", False),
        ("get", "", "pods/proxy", False),
        ("get", "", "secrets", False),
        ("list", "", "secrets", False),
        ("patch", "apps", "deployments", False),
        ("update", "serving.kserve.io", "inferenceservices/status", False),
        ("delete", "gateway.networking.k8s.io", "httproutes", False),
        ("create", "rbac.authorization.k8s.io", "rolebindings", False),
        ("create", "", "serviceaccounts/token", False),
    ],
)
def test_what_rollouts_may_do(
    world: KServe, verb: str, group: str, resource: str, allowed: bool
) -> None:
    assert may(world.api, "mlplatform:rollouts", verb, group, resource) is allowed


@pytest.mark.parametrize(
    ("verb", "group", "resource", "namespace", "allowed"),
    [
        ("create", "batch", "jobs", "mlplatform", True),
        ("watch", "batch", "jobs", "mlplatform", True),
        ("delete", "batch", "jobs", "mlplatform", True),
        ("watch", "", "pods", "mlplatform", True),
        ("create", "", "pods", "mlplatform", False),
        ("get", "", "pods/log", "mlplatform", False),
        ("get", "", "secrets", "mlplatform", False),
        ("create", "batch", "jobs", MODELS, False),
        ("create", "serving.kserve.io", "inferenceservices", MODELS, False),
        ("list", "", "namespaces", "mlplatform", False),
    ],
)
def test_what_prefects_worker_may_do(
    world: KServe, verb: str, group: str, resource: str, namespace: str, allowed: bool
) -> None:
    account = "mlplatform:prefect-worker"
    assert may(world.api, account, verb, group, resource, namespace) is allowed


@pytest.mark.parametrize(
    "account",
    [
        *("mlplatform:gateway", "mlplatform:mlflow", "mlplatform:prefect", "mlplatform:flows"),
        f"{MODELS}:predictor",
    ],
)
@pytest.mark.parametrize(("verb", "resource"), [("list", "pods"), ("get", "secrets")])
def test_what_serves_requests_may_do_nothing(
    world: KServe, account: str, verb: str, resource: str
) -> None:
    assert not may(world.api, account, verb, "", resource)


def test_nobody_changes_a_service_by_hand(world: KServe) -> None:
    manifest = world.manifest(3)
    path = INFERENCE_SERVICES.path(MODELS, manifest["metadata"]["name"])
    world.plane.apply(manifest)
    change = {
        "apiVersion": manifest["apiVersion"],
        "kind": manifest["kind"],
        "spec": {"predictor": {"minReplicas": 9}},
    }

    with pytest.raises(Refused, match="immutable; register a new version"):
        world.api.apply(path, change, force=True, manager="somebody")

    change = {**change, "metadata": {"annotations": {DIGEST_ANNOTATION: "0" * 64}}}
    del change["spec"]
    with pytest.raises(Refused, match="digest of the bundle that a service is for stays"):
        world.api.apply(path, change, force=True, manager="somebody")

    world.plane.apply(manifest)
    world.plane.remove(manifest["metadata"]["name"])


def test_a_pod_that_could_gain_privileges_is_refused(world: KServe) -> None:
    manifest = world.manifest(4)
    name = manifest["metadata"]["name"]
    manifest["spec"]["predictor"]["model"]["securityContext"] = {"allowPrivilegeEscalation": True}

    world.plane.apply(manifest)

    wait(lambda: world.plane.status(name).failed, name, within_s=world.deadline_s)
    assert "violates PodSecurity" in world.plane.status(name).reason
    world.plane.remove(name)


def may(
    api: KubernetesApi, account: str, verb: str, group: str, resource: str, namespace: str = MODELS
) -> bool:
    """As `kubectl auth can-i --as system:serviceaccount:...` asks."""
    kind, _, sub = resource.partition("/")
    asked: dict[str, Any] = {
        "namespace": namespace,
        "verb": verb,
        "group": group,
        "resource": kind,
        "subresource": sub,
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": f"system:serviceaccount:{account}", "resourceAttributes": asked},
    }
    answer = api.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])
