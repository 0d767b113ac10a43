"""The gateway as its StatefulSet runs it: on its volume, under the restricted standard, evicted and
back with its records; beside it exporter and page, on that volume too. Stores are the embedded
ones, on that volume."""

from __future__ import annotations

import base64
import os
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml
from tests.cluster import predictor_image, volumes
from tests.cluster.layout import ROOT
from tests.cluster.volumes import NAMESPACE, USER

from mlplatform.model.routes import Arm, Routes
from mlplatform.rollouts.journal.sqlite import SqliteRollouts
from mlplatform.rollouts.journal.transitions import Opened, Promoted
from mlplatform.rollouts.kubernetes.api import PODS
from support.kserve_world import installation, test_cluster
from support.platform_process import wait
from support.probe import status_of
from support.scoring_world import MODEL, write_amount_bundle

POD = f"/api/v1/namespaces/{NAMESPACE}/pods/gateway-0"
READY_S = 180.0
MANIFESTS = ROOT / "platform" / "manifests"
KINDS = {
    *("StatefulSet", "Deployment", "Service"),
    *("PersistentVolumeClaim", "PodDisruptionBudget", "ConfigMap"),
}
OTHERS = ("mlflow", "prefect", "prefect-worker", "worker-fraud")
NOT_HERE = ("POSTGRES", "REDIS", "MLFLOW", "PREFECT")
IMAGES = {
    "mlplatform/gateway:0.3.0": "mlplatform/predictor:0.3.0",
    "mlplatform/flows:0.3.0": predictor_image.PAGE,
}
"""What this cluster has of the same role, or the part of it that the page imports."""
SECRETS = {
    "postgres": "password",
    "redis": "password",
    "mlflow": "token",
    "exporter": "token",
    "page": "token",
}


class Gateway:
    """The pod, and the folder of this machine that is its volume."""

    def __init__(self) -> None:
        self.api, self._place = test_cluster()
        self._is_promoted = False
        self._kubectl("apply", "--server-side", "-k", str(MANIFESTS / "base"))
        self.home = volumes.empty_folder(self._place, "home-gateway-0")
        self.bundles = volumes.empty_folder(self._place, "bundles")
        self.documents = [
            *(volumes.of_claim(self._place, claim) for claim in ("home-gateway-0", "bundles")),
            *(_secret(name, key) for name, key in SECRETS.items()),
            *_workloads(self._kubectl("kustomize", str(MANIFESTS / "workloads"))),
        ]
        self._kubectl("apply", "--server-side", "-f", "-", given=yaml.dump_all(self.documents))

    def pod(self) -> dict[str, Any] | None:
        return self.api.find(POD)

    def ready(self, *, but: str = "") -> dict[str, Any]:
        """The pod, once it is ready and not the one with that uid."""
        found: dict[str, Any] = {}

        def is_ready() -> bool:
            pod = self.pod()
            if pod is None or pod["metadata"]["uid"] == but:
                return False
            found.update(pod)
            return _is_ready(pod)

        wait(is_ready, "gateway-0", within_s=READY_S)
        # kube-proxy hears of the pod's new address a moment later.
        wait(lambda: status_of(f"{self.url()}/readyz") == 200, "the Service", within_s=READY_S)
        return found

    def url(self) -> str:
        """Of the Service, as this machine reaches it."""
        service = self.api.get(f"/api/v1/namespaces/{NAMESPACE}/services/gateway")
        return f"http://{service['spec']['clusterIP']}"

    def score(self, body: dict[str, Any], key: str) -> dict[str, Any]:
        """An answer, by the Service; asked for again by its key where it came too late."""
        secret = (self.home / "home" / "secrets" / "api.key").read_text()
        answers: list[httpx.Response] = []

        def is_answered() -> bool:
            answer = httpx.post(
                f"{self.url()}/api/v1/models/{MODEL}/score",
                json=body,
                headers={"Authorization": f"Bearer {secret}", "Idempotency-Key": key},
                timeout=10.0,
            )
            answers.append(answer)
            return answer.status_code != 503

        wait(is_answered, within_s=30)
        answer = answers[-1]
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def beside(self, name: str) -> dict[str, Any]:
        """A pod that shares the volume, once it is ready and none of an earlier try is left."""
        found: list[dict[str, Any]] = []

        def is_ready() -> bool:
            label = f"app.kubernetes.io/name=mlplatform-{name}"
            found[:] = self.api.items(PODS.path(NAMESPACE), labelSelector=label)
            return len(found) == 1 and _is_ready(found[0])

        wait(is_ready, name, within_s=READY_S)
        return found[0]

    def promote(self) -> None:
        """A champion whose predictor is not there: answers come from its bundle, and say so."""
        if self._is_promoted:
            return
        self._is_promoted = True
        draft = self.bundles / "draft"
        digest = write_amount_bundle(draft)
        draft.rename(self.bundles / digest)
        for path in (self.bundles / digest, *(self.bundles / digest).iterdir()):
            os.chown(path, USER, USER)
        journal = SqliteRollouts(self.home / "home" / "rollouts.db")
        arm = Arm(1, digest, f"{MODEL}-v1-{digest[:8]}")
        fact = {
            "rollout_id": "r1",
            "model": MODEL,
            "event_ms": 0,
            "wall_ms": 0,
            "actor": "tests",
            "reason": "tests",
        }
        opened = Opened(
            **fact,
            challenger=arm,
            author="tests",
            alert_low=0.0,
            alert_high=1.0,
            bootstrap=True,
            approval="none",
        )
        journal.commit(opened, None)
        routes = Routes(MODEL, 1, arm, None, None, "r1", "steady", 0.0)
        fence = journal.acquire(MODEL, "tests", 60.0)
        journal.commit(Promoted(**fact, predecessor=None), fence, routes)
        journal.close()

    def generation(self) -> int | None:
        """Of the routes that the pod says it applies."""
        journal = SqliteRollouts(self.home / "home" / "rollouts.db")
        try:
            return next((g.generation for g in journal.gateways(MODEL)), None)
        finally:
            journal.close()

    def evict(self) -> None:
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": "gateway-0", "namespace": NAMESPACE},
        }
        self.api.create(f"{POD}/eviction", body)

    def close(self) -> None:
        made = [d for d in self.documents if d["kind"] != "PersistentVolume"]
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "home-gateway-0", "namespace": NAMESPACE},
        }
        volumes = [d for d in self.documents if d["kind"] == "PersistentVolume"]
        given = yaml.dump_all([*made, claim, *volumes])
        self._kubectl("delete", "--ignore-not-found", "--timeout=60s", "-f", "-", given=given)

    def _kubectl(self, *args: str, given: str = "") -> str:
        command = [str(self._place.bin / "kubectl"), f"--kubeconfig={self._place.kubeconfig}"]
        done = subprocess.run([*command, *args], input=given, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any((c["type"], c["status"]) == ("Ready", "True") for c in conditions)


def payment() -> dict[str, Any]:
    now_ms = int(time.time() * 1000)
    return {"customer_id": 7, "terminal_id": 3, "amount": 40.0, "event_time": now_ms}


def token(name: str) -> str:
    """What the Secret of this name holds."""
    return f"a-{SECRETS[name]}-of-{name}"


def _secret(name: str, key: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "data": {key: base64.b64encode(token(name).encode()).decode()},
    }


def _workloads(built: str) -> list[dict[str, Any]]:
    """What belongs to the gateway, and what watches it, by the images that this cluster has."""
    documents = [d for d in yaml.safe_load_all(built) if d["kind"] in KINDS]
    documents = [d for d in documents if d["metadata"]["name"] not in OTHERS]
    for document in documents:
        if document["kind"] == "ConfigMap" and document["metadata"]["name"] == "platform":
            told = document["data"]
            document["data"] = {k: v for k, v in told.items() if not any(n in k for n in NOT_HERE)}
        if document["kind"] in ("StatefulSet", "Deployment"):
            [container] = document["spec"]["template"]["spec"]["containers"]
            container["image"] = IMAGES[container["image"]]
            container["resources"]["requests"] = {"cpu": "50m", "memory": "128Mi"}
    return documents


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    _, place = test_cluster()
    with installation(place):
        made = Gateway()
        yield made
        made.close()


def test_an_evicted_gateway_comes_back_to_its_records(gateway: Gateway) -> None:
    first = gateway.ready()
    body = payment()
    gateway.promote()
    wait(lambda: gateway.generation() == 1, within_s=30)
    answer = gateway.score(body, "one")

    gateway.evict()
    second = gateway.ready(but=first["metadata"]["uid"])

    assert second["spec"]["nodeName"] == first["spec"]["nodeName"]
    assert gateway.score(body, "one")["decision_id"] == answer["decision_id"]
    assert first["status"]["containerStatuses"][0]["restartCount"] == 0


def test_a_drained_node_lets_the_gateway_go(gateway: Gateway) -> None:
    """One pod of one: its budget must not hold the node up for ever."""
    gateway.ready()
    path = f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets/gateway"

    def allowed() -> bool:
        status = gateway.api.get(path).get("status", {})
        return bool(status.get("disruptionsAllowed") == 1)

    wait(allowed, within_s=30)


def test_the_exporter_shows_the_volumes_state_to_who_has_its_token(gateway: Gateway) -> None:
    gateway.ready()
    gateway.promote()
    wait(lambda: gateway.generation() == 1, within_s=30)
    gateway.score(payment(), "shown")
    pod = gateway.beside("exporter")
    [port] = pod["spec"]["containers"][0]["ports"]
    url = f"http://{pod['status']['podIP']}:{port['containerPort']}/metrics"

    def shown() -> str:
        return httpx.get(url, headers={"Authorization": f"Bearer {token('exporter')}"}).text

    assert port["name"] == "exporter"
    assert status_of(url) == 401
    share = f'mlplatform_routes_share{{arm="champion",model="{MODEL}"}} 1.0'
    wait(lambda: share in shown(), share, within_s=30)
    records = 'mlplatform_log_writer_records{writer="gateway-0"}'
    wait(lambda: records in shown(), records, within_s=30)


def test_the_page_shows_a_decision_to_who_has_its_token(gateway: Gateway) -> None:
    first = gateway.ready()
    gateway.promote()
    wait(lambda: gateway.generation() == 1, within_s=30)
    made = gateway.score(payment(), "looked-at")["decision_id"]
    pod = gateway.beside("page")
    service = gateway.api.get(f"/api/v1/namespaces/{NAMESPACE}/services/page")
    [port] = service["spec"]["ports"]
    url, name = f"http://{service['spec']['clusterIP']}:{port['port']}", "page.mlplatform:8090"

    def shown(path: str, host: str = name, password: str = token("page")) -> httpx.Response:
        return httpx.get(f"{url}{path}", headers={"Host": host}, auth=("ana", password))

    wait(lambda: status_of(f"{url}/health", {"Host": name}) == 200, "the Service", within_s=READY_S)
    assert made in shown(f"/decisions/{made}").text
    assert made in shown("/decisions").text
    overview = shown("/")
    assert (overview.status_code, MODEL in overview.text) == (200, True)
    assert "They are pods" in overview.text
    assert shown("/", password="another").status_code == 401
    assert shown("/", host="evil.example").status_code == 403
    assert pod["spec"]["nodeName"] == first["spec"]["nodeName"]
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0


def test_the_gateway_stays_ready_while_what_watches_it_comes_and_goes(gateway: Gateway) -> None:
    before = gateway.ready()["metadata"]["uid"]
    page = gateway.beside("page")["metadata"]
    seen: set[tuple[str, bool]] = set()
    gateway.api.delete(f"{PODS.path(NAMESPACE)}/{page['name']}")

    def is_back() -> bool:
        pod = gateway.pod()
        assert pod is not None
        seen.add((pod["metadata"]["uid"], _is_ready(pod)))
        label = "app.kubernetes.io/name=mlplatform-page"
        pods = gateway.api.items(PODS.path(NAMESPACE), labelSelector=label)
        return [(p["metadata"]["uid"] != page["uid"], _is_ready(p)) for p in pods] == [(True, True)]

    wait(is_back, "another page", within_s=READY_S)
    assert seen == {(before, True)}
