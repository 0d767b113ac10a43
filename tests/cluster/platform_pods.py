"""The whole platform as pods: what an overlay of the workloads makes, on servers beside the
cluster, and a pod in which commands are typed."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import yaml
from tests.cluster import predictor_image, volumes
from tests.cluster.bank_servers import Addresses, BankServers
from tests.cluster.kubernetes import TestCluster
from tests.cluster.layout import ROOT
from tests.cluster.volumes import NAMESPACE

from mlplatform.rollouts.kubernetes.api import INFERENCE_SERVICES, PODS
from support.kserve_world import bundles_volume, test_cluster
from support.platform_process import wait

MODELS: Final = "mlplatform-models"
MANIFESTS: Final = ROOT / "platform" / "manifests"
READY_S: Final = 300.0
RUN_S: Final = 600.0
PROGRAM: Final = ("python", "-m", "mlplatform.commands")
"""The command `mlplatform`, which this image has not: its packages are unpacked, not installed."""
FIRST: Final = "gateway-0"
MORE: Final = ("gateway-more-0", "gateway-more-1")
BESIDE: Final = ("exporter", "page", "worker", "mlflow", "prefect", "prefect-worker")
"""Pods with one replica, by what their label `app.kubernetes.io/name` says."""


@dataclass(frozen=True)
class Release:
    """What is installed.

    Args:
        root: its files.
        images: what its manifests name, without the tag → the image of the test cluster.
        patches: of an overlay, without which it does not run here.
    """

    root: Path
    images: Mapping[str, str]
    patches: list[dict[str, str]] = field(default_factory=list)

    @property
    def manifests(self) -> Path:
        return self.root / "platform" / "manifests"

    def image(self, name: str) -> str:
        return self.images.get(name.rpartition(":")[0], name)


THIS: Final = Release(ROOT, {"mlplatform/gateway": predictor_image.NAME})
"""This tree. The predictor's image is of the gateway's lock."""


class Platform:
    """The installation. Components join it as an overlay that names them is applied."""

    def __init__(self, release: Release = THIS) -> None:
        self.api, self.place = test_cluster()
        self.release = release
        self.cluster = TestCluster(self.place)
        for archive in sorted(self.place.flow_images.glob("*.tar")):
            assert self.cluster.ctr("images", "import", str(archive)), archive
        self.servers = BankServers(self.api, self.place)
        self.at = self.servers.empty()
        self.apply_base()
        self.home = volumes.empty_folder(self.place, "home-gateway-0")
        self.bundles = volumes.empty_folder(self.place, "bundles")
        bundles_volume(self.api, MODELS, self.bundles)
        self._components: list[str] = []
        self._applied: dict[tuple[str, str], dict[str, Any]] = {}
        self.apply(volumes.of_claim(self.place, "home-gateway-0"))
        self.apply(volumes.of_claim(self.place, "bundles"))
        self.apply_overlay()

    def apply_base(self) -> None:
        """Of the release that is installed."""
        folder = str(self.release.manifests / "base")
        self.kubectl("apply", "--server-side", "--force-conflicts", "-k", folder)

    def apply_overlay(self, *components: str, at: Addresses | None = None) -> None:
        """What is there, with these components besides, and at other addresses where some are
        given."""
        self._components += components
        self.at = at or self.at
        secrets = (secret(name, keys) for name, keys in self.at.secrets.items())
        overlay = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [self._below("workloads"), self._below("commands")],
            "components": [self._below(f"components/{each}") for each in self._components],
            "patches": self.release.patches,
        }
        folder = self.place.run / "overlay"
        folder.mkdir(exist_ok=True)
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
        built = yaml.safe_load_all(self.kubectl("kustomize", str(folder)))
        self.apply(*secrets, *(self.installed(document) for document in built))

    def installed(self, document: dict[str, Any]) -> dict[str, Any]:
        """A document with this installation's addresses and images, and small requests."""
        if document["kind"] == "ConfigMap" and document["metadata"]["name"] == "platform":
            document["data"] |= self.at.variables
        for container in _containers(document):
            container["image"] = self.release.image(container["image"])
            container["resources"]["requests"] = {"cpu": "20m", "memory": "128Mi"}
            for variable in container.get("env", []):
                if variable["name"] in self.at.mlflow:
                    variable["value"] = self.at.mlflow[variable["name"]]
                elif variable["name"] == "FLOW_RUN_IMAGE":
                    variable["value"] = self.release.image(variable["value"])
        return document

    def apply(self, *documents: dict[str, Any]) -> None:
        for each in documents:
            self._applied[each["kind"], each["metadata"]["name"]] = each
        given = yaml.dump_all(documents)
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=given)

    def pod(self, name: str) -> dict[str, Any] | None:
        return self.api.find(PODS.path(NAMESPACE, name))

    def pods(self) -> dict[str, dict[str, Any]]:
        """Those that stand: of the gateways by their own names, of others by what they are."""
        found = {}
        for pod in self.api.items(PODS.path(NAMESPACE)):
            name = pod["metadata"]["labels"].get("app.kubernetes.io/name", "")
            is_gateway = name == "mlplatform-gateway"
            found[pod["metadata"]["name"] if is_gateway else name.removeprefix("mlplatform-")] = pod
        return found

    def until_ready(self, *names: str) -> None:
        """These and all that the workloads have."""
        wanted = {FIRST, *BESIDE, "commands", *names}

        def are_ready() -> bool:
            found = self.pods()
            return wanted <= set(found) and all(is_ready(found[name]) for name in wanted)

        wait(are_ready, f"pods {sorted(wanted)}", within_s=READY_S)

    def command(self, *words: str, status: int = 0) -> str:
        """What `mlplatform` says in the pod of commands."""
        done = self.typed(*words)
        assert done.returncode == status, f"{words}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def typed(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run("exec", "-n", NAMESPACE, "commands", "--", *PROGRAM, *words)

    def asked(self, *words: str) -> Any:
        return json.loads(self.command(*words, "--json"))

    def rollout(self, rollout: str) -> dict[str, Any]:
        [found] = [r for r in self.asked("rollouts", "list", "--all") if r["rollout_id"] == rollout]
        return dict(found)

    def until_phase(self, rollout: str, phase: str) -> None:
        wait(lambda: self.rollout(rollout)["phase"] == phase, f"{rollout}: {phase}", within_s=RUN_S)

    def approve(self, rollout: str) -> None:
        """Once the question has reached Prefect, moments after the pass that asked it."""
        words = ("--decision", "approve", "--approver", "bo", "--reason", "its gates are read")
        command = ("rollouts", "approve", rollout, *words, "--key-file", "/tmp/bo.key")
        wait(lambda: self.typed(*command).returncode == 0, "the approval", within_s=RUN_S)

    def url(self, service: str) -> str:
        """Of a Service, as this machine reaches it."""
        spec = self.api.get(f"/api/v1/namespaces/{NAMESPACE}/services/{service}")["spec"]
        return f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}"

    def pod_url(self, name: str) -> str:
        """Of a gateway's pod, as this machine reaches it."""
        found = self.pod(name)
        assert found is not None, name
        return f"http://{found['status']['podIP']}:8080"

    def api_key(self) -> str:
        return (self.home / "home" / "secrets" / "api.key").read_text().strip()

    def post_and_poll(self, model: str, body: dict[str, Any]) -> dict[str, Any]:
        """The decision of a request that is accepted for later, once the worker has made it."""
        headers = {"Authorization": f"Bearer {self.api_key()}"}
        url = self.url("gateway-first" if "gateways" in self._components else "gateway")
        with httpx.Client(base_url=url, headers=headers, timeout=10.0) as client:
            accepted = client.post(f"/api/v2/models/{model}/score:async", json=body)
            assert accepted.status_code == 202, accepted.text
            polled: list[httpx.Response] = []

            def is_decided() -> bool:
                polled.append(client.get(accepted.headers["Location"]))
                return polled[-1].status_code == 200

            wait(is_decided, "the worker's decision", within_s=READY_S)
        decided: dict[str, Any] = polled[-1].json()
        assert decided["decision_id"] == accepted.json()["decision_id"]
        return decided

    def metrics(self) -> dict[str, float]:
        """What the exporter shows, by name and labels."""
        pod = self.pods()["exporter"]
        [port] = pod["spec"]["containers"][0]["ports"]
        url = f"http://{pod['status']['podIP']}:{port['containerPort']}/metrics"
        headers = {"Authorization": f"Bearer {self.at.secrets['exporter']['token']}"}
        text = httpx.get(url, headers=headers, timeout=30.0).raise_for_status().text
        lines = (line.partition(" # ")[0] for line in text.splitlines() if line[:1] != "#")
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    def close(self) -> None:
        for service in self.api.items(INFERENCE_SERVICES.path(MODELS)):
            self.api.delete(INFERENCE_SERVICES.path(MODELS, service["metadata"]["name"]))
        self.run("delete", "jobs", "--all", "-n", NAMESPACE, "--timeout=60s")
        last = [d for (kind, _), d in self._applied.items() if kind == "PersistentVolume"]
        first = [d for (kind, _), d in self._applied.items() if kind != "PersistentVolume"]
        self.delete(*first)
        self.kubectl("delete", "pvc", "--all", "-n", NAMESPACE, "--timeout=60s")
        self.delete(*last)
        self.servers.close()

    def delete(self, *documents: dict[str, Any]) -> None:
        given = yaml.dump_all(documents)
        self.kubectl("delete", "--ignore-not-found", "--timeout=120s", "-f", "-", given=given)

    def kubectl(self, *args: str, given: str = "") -> str:
        done = self.run(*args, given=given)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, *args: str, given: str = "") -> subprocess.CompletedProcess[str]:
        command = [str(self.place.bin / "kubectl"), f"--kubeconfig={self.place.kubeconfig}"]
        return subprocess.run([*command, *args], input=given, capture_output=True, text=True)

    def _below(self, folder: str) -> str:
        """A folder of the manifests, as a file of the overlay names it. Release 0.3.0 has no pod of
        commands: it gets this tree's."""
        found = self.release.manifests / folder
        return os.path.relpath(
            found if found.exists() else MANIFESTS / folder, self.place.run / "overlay"
        )


def _containers(document: dict[str, Any]) -> list[dict[str, Any]]:
    spec = document.get("spec", {})
    spec = spec.get("jobTemplate", {}).get("spec", spec)
    spec = spec.get("template", {}).get("spec", spec)
    if not isinstance(spec.get("containers"), list):
        return []
    return [*spec.get("initContainers", []), *spec["containers"]]


def is_ready(pod: dict[str, Any]) -> bool:
    """Whether its containers are, and nothing ends it."""
    conditions = pod["status"].get("conditions", [])
    stays = "deletionTimestamp" not in pod["metadata"]
    return stays and any((c["type"], c["status"]) == ("Ready", "True") for c in conditions)


def secret(name: str, keys: dict[str, str] | dict[str, bytes]) -> dict[str, Any]:
    """A Secret of the platform's namespace."""
    as_bytes = {k: v if isinstance(v, bytes) else v.encode() for k, v in keys.items()}
    data = {key: base64.b64encode(value).decode() for key, value in as_bytes.items()}
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
