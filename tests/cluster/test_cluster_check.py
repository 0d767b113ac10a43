"""`mlplatform cluster check` on a real cluster."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.cluster.layout import ROOT, Layout

from mlplatform.operations.cluster.check import NEEDED_KINDS, OPTIONAL_KINDS
from mlplatform.rollouts.kubernetes.api import DEPLOYMENTS, SECRETS, KubernetesApi, Resource
from support.kserve_world import bundles_folder, bundles_volume, installation, test_cluster
from support.platform_process import wait

MODELS = "mlplatform-models"
NONE = "not there"


def checked(*flags: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and what was found by what was looked at."""
    _, place = test_cluster()
    command = [sys.executable, "-m", "mlplatform.commands", "cluster", "check", "--json"]
    done = subprocess.run(
        [*command, f"--kubeconfig={place.kubeconfig}", *flags], capture_output=True, text=True
    )
    assert done.stdout, done.stderr
    return done.returncode, {f["what"]: f for f in json.loads(done.stdout)}


@pytest.fixture(scope="module", autouse=True)
def manifests() -> Iterator[None]:
    """The base applied as a user would, and the claim that it leaves to the user.

    Another suite's Secrets would be found too: each has the namespace to itself.
    """
    api, place = test_cluster()
    with installation(place):
        _apply_base(api, place)
        yield


def _apply_base(api: KubernetesApi, place: Layout) -> None:
    kubectl = [str(place.bin / "kubectl"), f"--kubeconfig={place.kubeconfig}"]
    base = ROOT / "platform" / "manifests" / "base"
    subprocess.run([*kubectl, "apply", "--server-side", "-k", str(base)], check=True)
    folder = bundles_folder(place, MODELS)
    folder.mkdir(exist_ok=True)
    bundles_volume(api, MODELS, folder)


def in_state(found: dict[str, dict[str, Any]], state: str) -> set[str]:
    return {what for what, f in found.items() if f["state"] == state}


def test_a_cluster_with_the_manifests_lacks_nothing_and_another_namespace_does() -> None:
    """KServe's controller is no pod here, so that nothing says its version: no pass either."""
    wait(lambda: "claim mlplatform-models/bundles" in in_state(checked()[1], "ok"), "the claim")

    status, found = checked()

    assert (status, in_state(found, "lacking")) == (1, set())
    assert in_state(found, "unknown") == {"KServe's controller", "KServe's version"}
    assert found["Kubernetes"]["seen"] == "v1.34.4"
    assert found["serving runtime"]["state"] == "ok"
    assert found["GPUs"]["seen"] == "no node offers any"
    assert found["rights for GPUs"]["state"] == "ok"

    status, found = checked("--namespace=nowhere")
    assert (status, found["namespace nowhere"]["seen"]) == (1, "not there")
    assert found["claim nowhere/bundles"]["state"] == "lacking"


def test_a_controller_elsewhere_is_found_and_its_version_judged() -> None:
    api, _ = test_cluster()
    api.apply("/api/v1/namespaces/elsewhere", of("v1", "Namespace", "elsewhere"), force=True)
    labels = {"app": "kserve"}
    image = "registry.invalid/kserve-controller:v0.15.2"
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "manager"}]}}
    pod["spec"]["containers"][0]["image"] = image
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": pod}
    made = of("apps/v1", "Deployment", "kserve-controller-manager") | {"spec": spec}
    path = DEPLOYMENTS.path("elsewhere", "kserve-controller-manager")
    api.apply(path, made, force=True)

    _, found = checked("--kserve-namespace=elsewhere")

    assert found["KServe's controller"]["seen"] == "no pod of it answers"
    assert found["KServe's version"]["seen"] == "v0.15.2"
    assert found["KServe's version"]["state"] == "lacking"
    api.delete("/api/v1/namespaces/elsewhere")


def test_of_secrets_the_names_of_keys_are_read_and_no_value() -> None:
    api, _ = test_cluster()
    whole, part = SECRETS.path("mlplatform", "page"), SECRETS.path("mlplatform", "mlflow")
    value = "a-value-that-nobody-else-may-see"
    secret = of("v1", "Secret", "page") | {"stringData": {"token": value}}
    api.create(SECRETS.path("mlplatform"), secret)
    encoded = base64.b64encode(value.encode()).decode()
    api.apply(part, of("v1", "Secret", "mlflow") | {"data": {"token": encoded}})

    _, found = checked()

    assert found["Secret mlplatform/page"]["state"] == "ok"
    assert found["Secret mlplatform/mlflow"]["do"].startswith("add postgres-password")
    assert found["Secret mlplatform/redis"]["seen"] == "not there"
    for text in (str(found), str(api.metadata(whole)), str(api.metadata(part))):
        assert value not in text
        assert encoded not in text
    for path in (whole, part):
        api.delete(path)


def of(version: str, kind: str, name: str) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}}


def test_a_user_without_rights_is_told_which_lack() -> None:
    api, place = test_cluster()
    accounts = Resource("v1", "serviceaccounts").path("default", "default")
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = api.create(f"{accounts}/token", body)["status"]["token"]
    weak = place.run / "weak.conf"
    command = [str(place.bin / "kubectl"), "config", f"--kubeconfig={weak}"]
    authority = f"--certificate-authority={place.run / 'pki' / 'ca.crt'}"
    for words in (
        ["set-cluster", "test", f"--server={place.server}", authority],
        ["set-credentials", "weak", f"--token={token}"],
        ["set-context", "test", "--cluster=test", "--user=weak"],
        ["use-context", "test"],
    ):
        subprocess.run([*command, *words], check=True, capture_output=True)

    status, found = checked(f"--kubeconfig={weak}")

    assert status == 1
    assert found["rights for services"]["do"].startswith("run passes as the ServiceAccount")
    closed = in_state(found, "unknown")
    assert {"Secret mlplatform/page", "claim mlplatform-models/bundles", "GPUs"} <= closed
    assert in_state(found, "ok") == {
        "Kubernetes",
        *(kind for kind in (*NEEDED_KINDS, *OPTIONAL_KINDS) if found[kind]["seen"] != NONE),
    }
