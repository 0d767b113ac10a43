"""A cluster that is not ours: what suites take of it that need no access to its nodes."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import pytest

from mlplatform.model.definition import ModelDefinition
from mlplatform.rollouts.kubernetes.api import PODS, KubernetesApi
from mlplatform.rollouts.serving.manifest import RUNTIME, render
from support.onnx_bundles import sigmoid_bundle

IMAGE: Final = "MLPLATFORM_TEST_PREDICTOR_IMAGE"
"""Of predictors, as the cluster pulls it; left out: what its serving runtime names."""
STORAGE_CLASS: Final = "MLPLATFORM_TEST_STORAGE_CLASS"
"""Of claims of bundles; left out: the cluster's default."""
ACCESS_MODE: Final = "MLPLATFORM_TEST_ACCESS_MODE"
LABEL: Final = "mlplatform/test"
WRITTEN_S: Final = 120.0
USER: Final = 65532
_FORWARDS: Final = re.compile(rb"Forwarding from 127\.0\.0\.1:(\d+)")
_WRITE: Final = (
    "import shutil,tarfile; shutil.rmtree('/b/{name}',ignore_errors=True);"
    "tarfile.open('/in/bundle.tar').extractall('/b/{name}')"
)


def kubectl(kubeconfig: str) -> list[str]:
    """The command, or a skip where there is none."""
    found = shutil.which("kubectl")
    if found is None:
        pytest.skip("kubectl IS NOT HERE: a cluster that is not ours is reached by it")
    return [found, f"--kubeconfig={kubeconfig}"]


def own_namespace(api: KubernetesApi, name: str) -> str:
    """A namespace of the tests' own, labelled so that an operator finds them all."""
    full = f"mlplatform-test-{name}"
    metadata = {"name": full, "labels": {LABEL: "true"}}
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    api.apply(f"/api/v1/namespaces/{full}", body, force=True, manager="tests")
    return full


class Bundles:
    """Claim `bundles` of a namespace, whose files a pod writes: this machine can't."""

    def __init__(self, api: KubernetesApi, namespace: str) -> None:
        self._api, self._namespace = api, namespace
        self._root = f"/api/v1/namespaces/{namespace}"
        spec: dict[str, Any] = {
            "accessModes": [os.environ.get(ACCESS_MODE, "ReadWriteMany")],
            "resources": {"requests": {"storage": "1Gi"}},
        }
        if named := os.environ.get(STORAGE_CLASS):
            spec["storageClassName"] = named
        self._apply("v1", "persistentvolumeclaims", "PersistentVolumeClaim", "bundles", spec=spec)
        self._image = os.environ.get(IMAGE) or self._of_runtime()
        self._count = 0
        self._digests: dict[tuple[object, ...], str] = {}

    def manifest(self, definition: ModelDefinition, version: int, **bundle: Any) -> dict[str, Any]:
        """Of a service whose bundle lies on the claim, once it does."""
        name, asked = f"bundle-{version}", (version, *sorted(bundle.items()))
        if asked not in self._digests:
            self._digests[asked] = self._written(name, **bundle)
        made = render(definition, version, self._digests[asked], f"pvc://bundles/{name}")
        made["spec"]["predictor"]["model"]["image"] = self._image
        return made

    def _written(self, name: str, **bundle: Any) -> str:
        """The bundle's digest."""
        with tempfile.TemporaryDirectory() as folder:
            digest = sigmoid_bundle(Path(folder) / name, **bundle)
            self._apply(
                *("v1", "configmaps", "ConfigMap", name),
                binaryData={"bundle.tar": base64.b64encode(_packed(Path(folder) / name)).decode()},
            )
        self._run(_WRITE.format(name=name), name)
        return digest

    def lose(self, version: int, file: str) -> None:
        self._run(f"import os; os.unlink('/b/bundle-{version}/{file}')", f"bundle-{version}")

    def _run(self, program: str, configuration: str) -> None:
        """In a pod that has the claim, to its end."""
        self._count += 1
        name = f"writes-{self._count}-{time.time_ns() // 1_000_000}"
        container = {
            "name": "writes",
            "image": self._image,
            "command": ["python", "-c", program],
            "resources": {"limits": {"cpu": "500m", "memory": "128Mi"}},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [
                {"name": "bundles", "mountPath": "/b"},
                {"name": "in", "mountPath": "/in"},
            ],
        }
        spec = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "fsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [
                {"name": "bundles", "persistentVolumeClaim": {"claimName": "bundles"}},
                {"name": "in", "configMap": {"name": configuration}},
            ],
        }
        path = PODS.path(self._namespace, name)
        self._api.create(
            PODS.path(self._namespace),
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec},
        )
        end_s = time.monotonic() + WRITTEN_S
        while (phase := self._api.get(path)["status"].get("phase")) != "Succeeded":
            assert phase != "Failed", f"pod {name} did not write: {self._api.get(path)['status']}"
            assert time.monotonic() < end_s, f"pod {name} is {phase} after {WRITTEN_S} s"
            time.sleep(0.2)
        self._api.delete(path, grace_s=0)

    def _apply(self, version: str, plural: str, kind: str, name: str, **parts: Any) -> None:
        body = {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **parts}
        self._api.apply(f"{self._root}/{plural}/{name}", body, force=True, manager="tests")

    def _of_runtime(self) -> str:
        path = f"/apis/serving.kserve.io/v1alpha1/clusterservingruntimes/{RUNTIME}"
        found = self._api.find(path)
        if found is None:
            pytest.skip(f"the cluster has no runtime {RUNTIME}: apply kserve/runtimes")
        return str(found["spec"]["containers"][0]["image"])


class ForwardedPorts:
    """Services of a namespace at ports of this machine, as `kubectl port-forward` brings them."""

    def __init__(self, command: list[str], namespace: str) -> None:
        self._command = [*command, f"--namespace={namespace}", "port-forward"]
        self._running: list[subprocess.Popen[bytes]] = []

    def url(self, service: str) -> str:
        """Of a service that has a pod which is ready."""
        made = subprocess.Popen(
            [*self._command, f"service/{service}", ":80"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._running.append(made)
        assert made.stdout is not None
        said = made.stdout.readline()
        found = _FORWARDS.match(said)
        assert found is not None, f"kubectl port-forward: {said.decode()}"
        return f"http://127.0.0.1:{int(found[1])}"

    def close(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._running.clear()


def _packed(folder: Path) -> bytes:
    """A tar file of what is in it, which everybody may read: the predictor is another user."""

    def readable(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.mode = 0o755 if entry.isdir() else 0o644
        entry.uid = entry.gid = USER
        return entry

    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name, filter=readable)
    return held.getvalue()
