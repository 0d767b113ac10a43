"""`mlplatform cluster check` on a real cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.cluster.layout import ROOT

from mlplatform.cluster.api import Resource
from support.kserve_world import test_cluster


def checked(*flags: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and what was found by what was looked at."""
    _, place = test_cluster()
    command = [sys.executable, "-m", "mlplatform.cli", "cluster", "check", "--json"]
    done = subprocess.run(
        [*command, f"--kubeconfig={place.kubeconfig}", *flags], capture_output=True, text=True
    )
    assert done.stdout, done.stderr
    return done.returncode, {f["what"]: f for f in json.loads(done.stdout)}


def test_a_cluster_with_the_manifests_lacks_nothing_and_another_namespace_does() -> None:
    _, place = test_cluster()
    kubectl = [str(place.bin / "kubectl"), f"--kubeconfig={place.kubeconfig}"]
    base = ROOT / "platform" / "manifests" / "base"
    subprocess.run([*kubectl, "apply", "--server-side", "-k", str(base)], check=True)

    status, found = checked()

    lacking = {what for what, f in found.items() if f["state"] == "lacking"}
    assert (status, lacking) == (0, set())
    assert found["Kubernetes"]["seen"] == "v1.34.4"
    assert found["serving runtime"]["state"] == "ok"
    assert found["GPUs"]["seen"] == "no node offers any"

    status, found = checked("--namespace=nowhere")
    assert (status, found["namespace nowhere"]["seen"]) == (1, "not there")


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
    assert found["right"]["do"].startswith("run passes as the ServiceAccount")
