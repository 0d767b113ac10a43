"""Every process of platform/manifests/workloads as a pod, on servers beside the cluster, and the
way of a first version through them: history, a retrain by Prefect's worker, an approval, a
predictor of KServe's that answers. For `FULL=1 make test-cluster`, as their image takes minutes.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import httpx
import pytest
import yaml
from tests.cluster import bank_servers, predictor_image
from tests.cluster.kubernetes import TestCluster
from tests.cluster.layout import ROOT
from tests.cluster.test_gateway_pod import _volume, _volumes

from mlplatform.rollouts.kubernetes.api import INFERENCE_SERVICES, PODS
from support.kserve_world import bundles_volume, installation, test_cluster
from support.platform_process import wait

NAMESPACE: Final = "mlplatform"
MODELS: Final = "mlplatform-models"
MANIFESTS: Final = ROOT / "platform" / "manifests"
READY_S: Final = 300.0
RUN_S: Final = 600.0
IMAGES: Final = {"mlplatform/gateway:0.3.0": predictor_image.NAME}
"""The predictor's image is of the same lock."""
MODEL: Final = "fraud"
ROLLOUT: Final = f"{MODEL}-v1-1"
PROGRAM: Final = ("python", "-m", "mlplatform.commands")
"""The command `mlplatform`, which this image has not: its packages are unpacked, not installed."""
PODS_OF: Final = {"exporter", "page", "worker", "mlflow", "prefect", "prefect-worker", "gateway"}


class Platform:
    """The installation: what an overlay of the workloads makes, and a pod to type commands in."""

    def __init__(self) -> None:
        self.api, self._place = test_cluster()
        cluster = TestCluster(self._place)
        for archive in sorted(self._place.flow_images.glob("*.tar")):
            assert cluster.ctr("images", "import", str(archive)), archive
        self.servers = bank_servers.start(self.api, self._place)
        self._kubectl("apply", "--server-side", "-k", str(MANIFESTS / "base"))
        self._home = _volume(self._place, "home-gateway-0")
        bundles = _volume(self._place, "bundles")
        bundles_volume(self.api, MODELS, bundles)
        self.documents = [
            *_volumes(self._place),
            *(_secret(name, keys) for name, keys in self.servers.secrets.items()),
            *self._installed("workloads"),
            *self._installed("commands"),
        ]
        self._kubectl("apply", "--server-side", "-f", "-", given=yaml.dump_all(self.documents))

    def _installed(self, folder: str) -> list[dict[str, Any]]:
        """As an overlay has it: this installation's addresses and images, and small requests."""
        built = list(yaml.safe_load_all(self._kubectl("kustomize", str(MANIFESTS / folder))))
        for document in built:
            if document["kind"] == "ConfigMap" and document["metadata"]["name"] == "platform":
                document["data"] |= self.servers.variables
            for container in _containers(document):
                container["image"] = IMAGES.get(container["image"], container["image"])
                container["resources"]["requests"] = {"cpu": "20m", "memory": "128Mi"}
                for variable in container.get("env", []):
                    if variable["name"] in self.servers.mlflow:
                        variable["value"] = self.servers.mlflow[variable["name"]]
        return built

    def pods(self) -> dict[str, dict[str, Any]]:
        """Those that stand, by their names."""
        found = self.api.items(PODS.path(NAMESPACE))
        named = {pod["metadata"]["labels"].get("app.kubernetes.io/name"): pod for pod in found}
        return {
            name.removeprefix("mlplatform-"): pod for name, pod in named.items() if name is not None
        }

    def until_ready(self) -> None:
        wanted = PODS_OF | {"commands"}

        def are_ready() -> bool:
            found = self.pods()
            return wanted <= set(found) and all(_is_ready(found[name]) for name in wanted)

        wait(are_ready, "all pods", within_s=READY_S)

    def command(self, *words: str, status: int = 0) -> str:
        """What `mlplatform` says in the pod of commands."""
        done = self._typed(*words)
        assert done.returncode == status, f"{words}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def _typed(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self._run("exec", "-n", NAMESPACE, "commands", "--", *PROGRAM, *words)

    def asked(self, *words: str) -> Any:
        return json.loads(self.command(*words, "--json"))

    def until_phase(self, rollout: str, phase: str) -> None:
        def is_there() -> bool:
            [found] = [
                r for r in self.asked("rollouts", "list", "--all") if r["rollout_id"] == rollout
            ]
            return bool(found["phase"] == phase)

        wait(is_there, f"{rollout}: {phase}", within_s=RUN_S)

    def approve(self, rollout: str) -> None:
        """Once the question has reached Prefect, moments after the pass that asked it."""
        words = ("--decision", "approve", "--approver", "bo", "--reason", "its gates are read")
        command = ("rollouts", "approve", rollout, *words, "--key-file", "/tmp/bo.key")
        wait(lambda: self._typed(*command).returncode == 0, "the approval", within_s=RUN_S)

    def url(self, service: str) -> str:
        """Of a Service, as this machine reaches it."""
        spec = self.api.get(f"/api/v1/namespaces/{NAMESPACE}/services/{service}")["spec"]
        return f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}"

    def post_and_poll(self, body: dict[str, Any]) -> dict[str, Any]:
        """The decision of a request that is accepted for later, once the worker has made it."""
        key = (self._home / "home" / "secrets" / "api.key").read_text()
        with httpx.Client(
            base_url=self.url("gateway"), headers={"Authorization": f"Bearer {key}"}, timeout=10.0
        ) as client:
            accepted = client.post(f"/api/v2/models/{MODEL}/score:async", json=body)
            assert accepted.status_code == 202, accepted.text
            polled: list[httpx.Response] = []

            def is_decided() -> bool:
                polled.append(client.get(accepted.headers["Location"]))
                return polled[-1].status_code == 200

            wait(is_decided, "the worker's decision", within_s=READY_S)
        decided: dict[str, Any] = polled[-1].json()
        assert decided["decision_id"] == accepted.json()["decision_id"]
        return decided

    def close(self) -> None:
        for service in self.api.items(INFERENCE_SERVICES.path(MODELS)):
            self.api.delete(INFERENCE_SERVICES.path(MODELS, service["metadata"]["name"]))
        claims = [
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}}
            for name in ("home-gateway-0",)
        ]
        for claim in claims:
            claim["metadata"]["namespace"] = NAMESPACE
        first = [d for d in self.documents if d["kind"] != "PersistentVolume"]
        last = [d for d in self.documents if d["kind"] == "PersistentVolume"]
        given = yaml.dump_all([*first, *claims, *last])
        self._run("delete", "jobs", "--all", "-n", NAMESPACE, "--timeout=60s")
        self._kubectl("delete", "--ignore-not-found", "--timeout=120s", "-f", "-", given=given)
        self.servers.ends.close()

    def _kubectl(self, *args: str, given: str = "") -> str:
        done = self._run(*args, given=given)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _run(self, *args: str, given: str = "") -> subprocess.CompletedProcess[str]:
        command = [str(self._place.bin / "kubectl"), f"--kubeconfig={self._place.kubeconfig}"]
        return subprocess.run([*command, *args], input=given, capture_output=True, text=True)


def _containers(document: dict[str, Any]) -> list[dict[str, Any]]:
    spec = document.get("spec", {})
    spec = spec.get("template", {}).get("spec", spec)
    if not isinstance(spec.get("containers"), list):
        return []
    return [*spec.get("initContainers", []), *spec["containers"]]


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any((c["type"], c["status"]) == ("Ready", "True") for c in conditions)


def _secret(name: str, keys: dict[str, str]) -> dict[str, Any]:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in keys.items()}
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}


def payment() -> dict[str, Any]:
    moment = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"customer_id": 7, "terminal_id": 3, "amount": 40.0, "event_time": moment}


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    _, place = test_cluster()
    if os.environ.get("FULL") != "1":  # an image that is there may be of other code
        pytest.skip("THE PLATFORM'S PODS ARE NOT TESTED: FULL=1 make test-cluster has their image")
    with installation(place):
        made = Platform()
        yield made
        made.close()


def test_every_pod_is_ready_and_none_restarts(platform: Platform) -> None:
    platform.until_ready()

    restarts = {
        name: [c["restartCount"] for c in pod["status"]["containerStatuses"]]
        for name, pod in platform.pods().items()
        if name in PODS_OF
    }
    assert restarts == {name: [0] for name in PODS_OF}


def test_prefect_has_every_flow_and_a_pool_of_kubernetes(platform: Platform) -> None:
    platform.until_ready()
    auth = tuple(platform.servers.secrets["prefect"]["auth"].split(":"))
    url = f"{platform.url('prefect')}/api"
    headers = {"Host": "prefect.mlplatform:4200"}

    with httpx.Client(base_url=url, headers=headers, auth=auth) as client:  # type: ignore[arg-type]
        pool = lambda: client.get("/work_pools/kubernetes").json()  # noqa: E731
        assert pool()["type"] == "kubernetes"
        wait(lambda: pool()["status"] == "READY", "the worker's first poll", within_s=READY_S)
        made = client.post("/deployments/filter", json={"limit": 200}).json()

    assert {"fraud-retrain", "fraud-rollout", "fraud-promote"} <= {d["name"] for d in made}
    assert {d["work_pool_name"] for d in made} == {"kubernetes"}


@pytest.mark.timeout(1200)  # seven runs of flows start one after the other, each as a Job
def test_a_first_version_is_trained_approved_and_answers_from_its_pod(platform: Platform) -> None:
    platform.until_ready()
    platform.command("history", "generate", MODEL, "--seed", "7")
    platform.command("retrain", MODEL, "--actor", "ana", "--reason", "first", "--rollout")
    key = ("--name", "bo", "--model", MODEL, "--scope", "approve", "--to", "/tmp/bo.key")
    platform.command("keys", "create", *key)

    platform.until_phase(ROLLOUT, "awaiting_approval")
    platform.approve(ROLLOUT)
    platform.until_phase(ROLLOUT, "promoted")

    answers: list[dict[str, Any]] = []

    def is_answered() -> bool:
        answers.append(platform.asked("score", MODEL, json.dumps(payment())))
        return bool(answers[-1]["answered_by"] == "champion")

    wait(is_answered, "an answer of the champion", within_s=READY_S)
    answer = answers[-1]
    assert (answer["model"]["version"], answer["degraded"]) == (1, None)
    [service] = platform.api.items(INFERENCE_SERVICES.path(MODELS))
    assert service["metadata"]["name"] == f"{MODEL}-v1-{answer['model']['bundle'][:8]}"
    assert platform.asked("log", "explain", answer["decision_id"])["equal"]
    later = platform.post_and_poll(payment())
    assert later["model"] == answer["model"]
    assert platform.command("status").startswith("ready")
