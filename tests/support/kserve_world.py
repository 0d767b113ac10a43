"""A namespace of the test cluster with a volume of bundles, and the KServe plane in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.layout import Layout, layout
from tests.cluster.processes import pids_of_pod

from mlplatform.model.definition import ModelDefinition
from mlplatform.rollouts.kubernetes.api import DEPLOYMENTS, PODS, SERVICES, KubernetesApi
from mlplatform.rollouts.serving.kserve import OF_SERVICE, KServePlane
from mlplatform.rollouts.serving.manifest import render
from mlplatform.rollouts.serving.plane import ServingPlane
from support.foreign_cluster import Bundles, ForwardedPorts, kubectl, own_namespace
from support.onnx_bundles import sigmoid_bundle
from support.platform_process import wait

KUBECONFIG = "MLPLATFORM_TEST_KUBECONFIG"


def test_cluster() -> tuple[KubernetesApi, Layout]:
    """The cluster that `make test-cluster` started; skips the test where there is none, or another.

    For suites that reach into its node: processes, volumes, containers, addresses.
    """
    named = _named()
    if not is_ours():
        pytest.skip(f"{named} IS NOT THE TEST CLUSTER: this suite reaches into the node")
    return KubernetesApi.connect(named), layout()


test_cluster.__test__ = False  # type: ignore[attr-defined]


@contextlib.contextmanager
def installation(place: Layout) -> Iterator[None]:
    """One suite at a time has namespace `mlplatform` and what the manifests make there."""
    with (place.run / "installation.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def any_cluster() -> tuple[KubernetesApi, list[str]]:
    """The cluster that MLPLATFORM_TEST_KUBECONFIG names, whosever it is, and kubectl for it."""
    named = _named()
    if is_ours():
        return KubernetesApi.connect(named), [
            str(layout().bin / "kubectl"),
            f"--kubeconfig={named}",
        ]
    return KubernetesApi.connect(named), kubectl(named)


def is_ours() -> bool:
    """Whether the cluster is the one of `make test-cluster`, whose node this machine is."""
    return Path(_named()) == layout().kubeconfig


def _named() -> str:
    named = os.environ.get(KUBECONFIG)
    if not named:
        pytest.skip(f"KUBERNETES IS NOT TESTED: make test-cluster sets {KUBECONFIG}")
    return named


def own_or_plain(api: KubernetesApi, name: str) -> str:
    """A namespace of that name on our cluster, and one that says whose it is on another."""
    if not is_ours():
        return own_namespace(api, name)
    _apply(api, f"/api/v1/namespaces/{name}", "Namespace", name)
    return name


def on_any_cluster(definition: ModelDefinition, namespace: str) -> KServe | Foreign:
    """The plane in a namespace of the tests' own, on whatever cluster is named."""
    make = KServe if is_ours() else Foreign
    return make(definition, namespace)


class OnKServe:
    """What is of a namespace's services alone, wherever they are.

    Args:
        namespace: of the tests' own, or one that they make.
    """

    deadline_s = 150.0
    plane: ServingPlane

    def __init__(self, api: KubernetesApi, namespace: str) -> None:
        self.api, self.namespace = api, namespace

    def headers(self) -> dict[str, str]:
        return {}

    def pods(self, name: str) -> list[dict[str, Any]]:
        return self.api.items(PODS.path(self.namespace), labelSelector=f"{OF_SERVICE}={name}")

    def until_ready(self, name: str) -> None:
        """Or what it is that a service lacks."""
        end_s = time.monotonic() + self.deadline_s
        while not (status := self.plane.status(name)).ready:
            assert time.monotonic() < end_s, f"{name} after {self.deadline_s} s: {status}"
            time.sleep(0.2)

    def close(self) -> None:
        self.end_services()

    def end_services(self) -> None:
        for name in self.plane.names():
            self.plane.remove(name)
        self.end_pods()

    def end_pods(self) -> None:
        """Without their drain: the next test finds the node's processors free at once."""
        wait(lambda: not self._killed(), "the end of the pods", within_s=self.deadline_s)

    def _killed(self) -> list[dict[str, Any]]:
        """What was still there; before its Deployment is gone, another would take a pod's place."""
        if makers := self.api.items(DEPLOYMENTS.path(self.namespace)):
            return makers
        found = self.api.items(PODS.path(self.namespace))
        for pod in found:
            self.api.delete(PODS.path(self.namespace, pod["metadata"]["name"]), grace_s=0)
        return found


class KServe(OnKServe):
    """Bundles lie in a folder of this machine that every pod mounts."""

    def __init__(self, definition: ModelDefinition, namespace: str) -> None:
        api, self._place = test_cluster()
        super().__init__(api, namespace)
        self._definition = definition
        self.folder = bundles_folder(self._place, namespace)
        self._digests: dict[int, str] = {}
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        bundles_volume(self.api, namespace, self.folder)
        self.plane = KServePlane(self.api, namespace)

    def manifest(self, version: int, **bundle: Any) -> dict[str, Any]:
        digest = sigmoid_bundle(self.folder / f"bundle-{version}", **bundle)
        self._digests[version] = digest
        for path in (self.folder / f"bundle-{version}", *self.folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)  # the predictor is another user
        return render(self._definition, version, digest, f"pvc://bundles/bundle-{version}")

    def lose(self, version: int, file: str) -> None:
        (self.folder / f"bundle-{version}" / file).unlink()

    def url(self, name: str) -> str:
        service = self.api.get(SERVICES.path(self.namespace, f"{name}-predictor"))
        return f"http://{service['spec']['clusterIP']}"

    def pid(self, name: str) -> int:
        [pod] = self.pods(name)
        found = pids_of_pod(self._place, pod["metadata"]["uid"])
        [pid] = [p for p in found if b"mlplatform.process" in _command(p)]
        return pid


class Foreign(OnKServe):
    """Bundles are written by a pod, and services are reached by `kubectl port-forward`."""

    def __init__(self, definition: ModelDefinition, namespace: str) -> None:
        api, command = any_cluster()
        super().__init__(api, own_namespace(api, namespace))
        self._definition = definition
        self._bundles = Bundles(api, self.namespace)
        self._forwarded = ForwardedPorts(command, self.namespace)
        self.plane = KServePlane(api, self.namespace)

    def manifest(self, version: int, **bundle: Any) -> dict[str, Any]:
        return self._bundles.manifest(self._definition, version, **bundle)

    def lose(self, version: int, file: str) -> None:
        self._bundles.lose(version, file)

    def url(self, name: str) -> str:
        return self._forwarded.url(f"{name}-predictor")

    def pid(self, name: str) -> int:
        pytest.skip(f"the process of {name} IS NOT REACHED: it is on a node of another machine")

    def end_services(self) -> None:
        self._forwarded.close()
        super().end_services()


def bundles_folder(place: Layout, namespace: str) -> Path:
    """The folder of this machine that a namespace's claim `bundles` names.

    A volume's folder can't be changed, so it is one for all suites of a cluster. The claim of the
    platform's own namespace names the same files as that of its models.
    """
    return place.volumes / f"{namespace.removesuffix('-models')}-bundles"


def bundles_volume(api: KubernetesApi, namespace: str, folder: Path) -> None:
    """The namespace, and in it claim `bundles`: a folder of this machine."""
    volume, size = f"{namespace}-bundles", {"storage": "1Gi"}
    _apply(api, f"/api/v1/namespaces/{namespace}", "Namespace", namespace)
    _apply(
        api,
        f"/api/v1/persistentvolumes/{volume}",
        "PersistentVolume",
        volume,
        capacity=size,
        accessModes=["ReadOnlyMany"],
        hostPath={"path": str(folder)},
        claimRef={"namespace": namespace, "name": "bundles"},
        storageClassName="",
    )
    _apply(
        api,
        f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/bundles",
        "PersistentVolumeClaim",
        "bundles",
        accessModes=["ReadOnlyMany"],
        resources={"requests": size},
        storageClassName="",
        volumeName=volume,
    )


def _apply(api: KubernetesApi, path: str, kind: str, name: str, **spec: Any) -> None:
    body: dict[str, Any] = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}
    if spec:
        body["spec"] = spec
    api.apply(path, body, force=True, manager="tests")


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
