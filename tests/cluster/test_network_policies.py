"""Network policies on a network that enforces them: of all pods and ports, who reaches whom.

A pod stands for each pod of the manifests, by its labels and in its namespace, and for each
namespace that an operator marks. Each listens on all ports, so that a policy alone refuses.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
import yaml
from tests.cluster import policies, predictor_image
from tests.cluster.kubernetes import TestCluster
from tests.cluster.layout import ROOT

from mlplatform.rollouts.kubernetes.api import PODS
from support.kserve_world import installation, test_cluster
from support.network_paths import (
    API_SERVER,
    DOCUMENTS,
    HTTPS,
    LETS_IN,
    MODELS,
    NAMES,
    OPENS,
    PLATFORM,
    PREDICTOR_LETS_IN,
    PREDICTORS,
    labels,
    pods,
)
from support.platform_process import wait

READY_S: Final = 240.0
ENFORCED_S: Final = 60.0
EVERYWHERE: Final = ("anybody", "addresses but a few")
MARKED: Final = (
    *("calls-gateway", "raw-callers", "scrapes", "operators", "state", "telemetry", "spark"),
)
PORTS: Final = sorted(
    {
        port
        for table in (*OPENS.values(), *LETS_IN.values(), PREDICTOR_LETS_IN, API_SERVER, NAMES)
        for _, port in table
    }
)
LISTEN: Final = """
import asyncio
async def main():
    for port in PORTS:
        await asyncio.start_server(lambda reader, writer: writer.close(), "0.0.0.0", port)
    await asyncio.Event().wait()
asyncio.run(main())
"""
CONNECT: Final = """
import asyncio, json
async def reaches(few, address, port):
    for _ in range(2):  # a busy machine may lose a first try
        async with few:
            try:
                _, writer = await asyncio.wait_for(asyncio.open_connection(address, port), 1.5)
            except (OSError, TimeoutError):
                continue
        writer.close()
        return address, port
async def main():
    few = asyncio.Semaphore(128)
    found = await asyncio.gather(*(reaches(few, a, p) for a in ADDRESSES for p in PORTS))
    print(json.dumps([each for each in found if each]))
asyncio.run(main())
"""
OpenPath = tuple[str, str, int]
"""Who, whom, and the port."""


@dataclass(frozen=True)
class StandIn:
    """A pod that listens on all ports.

    Args:
        known_as: how policies name it, apart from its own name.
        opens: what it may open; None: no policy says.
        lets_in: whom it lets in; None: no policy says.
    """

    name: str
    namespace: str
    labels: dict[str, str] = field(default_factory=dict)
    known_as: frozenset[str] = frozenset()
    opens: frozenset[tuple[str, int]] | None = None
    lets_in: frozenset[tuple[str, int]] | None = None

    def may_open(self, other: StandIn, port: int) -> bool:
        names = {*other.known_as, *EVERYWHERE}
        opens = self.opens is None or any((name, port) in self.opens for name in names)
        let_in = other.lets_in is None or any((n, port) in other.lets_in for n in self.known_as)
        return opens and (let_in or self._is_expected(other, port))

    def _is_expected(self, other: StandIn, port: int) -> bool:
        """A path between two pods of the platform has one row, of the one who opens it."""
        own = {name for name in other.known_as if name.startswith("pods ")}
        return self.opens is not None and any((name, port) in self.opens for name in own)

    def document(self) -> dict[str, Any]:
        """Of a pod under the restricted standard."""
        hardened = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        container = {
            "name": "stand-in",
            "image": predictor_image.NAME,
            "command": ["python", "-c", LISTEN.replace("PORTS", str(PORTS))],
            "readinessProbe": {"tcpSocket": {"port": PORTS[-1]}, "periodSeconds": 1},
            "securityContext": hardened,
            "resources": {
                "requests": {"cpu": "1m", "memory": "32Mi"},
                "limits": {"cpu": "1", "memory": "64Mi"},
            },
        }
        low_ports = {"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}
        spec = {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
                "sysctls": [low_ports],
            },
            "containers": [container],
        }
        metadata = {"name": self.name, "namespace": self.namespace, "labels": self.labels}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _of_manifests() -> list[StandIn]:
    """Of each pod template; of flow runs two, one that asks the API server and predictors."""
    found = []
    for name, pod in pods().items():
        if name != "flow-run":
            found.append(_own(name, name, labels(pod), set()))
            continue
        for flow, asks in (("pass", "true"), ("retrain", "false")):
            given = labels(pod) | dict.fromkeys(
                ("mlplatform/asks-api-server", "mlplatform/asks-predictors"), asks
            )
            more = API_SERVER | {(PREDICTORS, 8080)} if asks == "true" else set()
            found.append(_own(name, f"flow-run-{flow}", given, more))
    return found


def _own(name: str, pod: str, given: dict[str, str], more: set[tuple[str, int]]) -> StandIn:
    program = given.get("app.kubernetes.io/name", "")
    return StandIn(
        f"of-{pod}",
        PLATFORM,
        given,
        frozenset({f"pods {program}"}) if program else frozenset(),
        frozenset(OPENS[name] | NAMES | more),
        frozenset(LETS_IN.get(name, set())),
    )


def _predictor() -> StandIn:
    given = {"serving.kserve.io/inferenceservice": "fraud-v1-00000000"}
    opens, lets_in = frozenset(NAMES | {HTTPS}), frozenset(PREDICTOR_LETS_IN)
    return StandIn("of-predictor", MODELS, given, frozenset({PREDICTORS}), opens, lets_in)


def _marked() -> list[StandIn]:
    """In each namespace that an operator marks, in that of DNS, and in one that is nobody's."""
    found = [
        StandIn(
            f"in-{mark}",
            f"paths-{mark}",
            known_as=frozenset({f"namespaces mlplatform/{mark}"}),
        )
        for mark in MARKED
    ]
    names = StandIn("in-kube-system", "kube-system", known_as=frozenset({"namespaces kube-system"}))
    return [*found, names, StandIn("in-another", "paths-another")]


STAND_INS: Final = (*_of_manifests(), _predictor(), *_marked())
EXPECTED: Final = {
    (one.name, other.name, port)
    for one in STAND_INS
    for other in STAND_INS
    for port in PORTS
    if one is not other and one.may_open(other, port)
}
BETWEEN_ALL: Final = {
    (one.name, other.name, port)
    for one in STAND_INS
    for other in STAND_INS
    for port in PORTS
    if one is not other
}


class Pods:
    """All stand-ins, ready, and the manifests' policies."""

    def __init__(self) -> None:
        self.api, place = test_cluster()
        self.cluster = TestCluster(place)
        self._command = [str(place.bin / "kubectl"), f"--kubeconfig={place.kubeconfig}"]
        base = str(ROOT / "platform" / "manifests" / "base")
        self._kubectl("apply", "--server-side", "--force-conflicts", "-k", base)
        self._namespaces = [_namespace(mark, {f"mlplatform/{mark}": "true"}) for mark in MARKED]
        self._namespaces.append(_namespace("another", {}))
        self._policies = [d for d in DOCUMENTS if d["kind"] == "NetworkPolicy"]
        self._pods = [one.document() for one in STAND_INS]
        self._apply(*self._namespaces, *self._policies, *self._pods)
        self._addresses: dict[str, str] = {}
        wait(self._are_ready, "a pod for each pod of the manifests", within_s=READY_S)

    def reached(self) -> set[OpenPath]:
        """Each pair of pods and the port by which the first reaches the second."""
        with ThreadPoolExecutor(4) as several:
            return set().union(*several.map(self.reached_by, STAND_INS))

    def reached_by(self, one: StandIn) -> set[OpenPath]:
        others = {address: name for name, address in self._addresses.items() if name != one.name}
        script = CONNECT.replace("ADDRESSES", str(list(others))).replace("PORTS", str(PORTS))
        typed = ("exec", "-n", one.namespace, one.name, "--", "python", "-c", script)
        found = json.loads(self._kubectl(*typed))
        return {(one.name, others[address], port) for address, port in found}

    def close(self) -> None:
        of_base = yaml.safe_load_all((ROOT / "platform/manifests/base/network.yaml").read_text())
        kept = [each["metadata"] for each in of_base]
        more = [policy for policy in self._policies if policy["metadata"] not in kept]
        given = yaml.dump_all([*self._pods, *more, *self._namespaces])
        self._kubectl("delete", "--ignore-not-found", "--timeout=120s", "-f", "-", given=given)

    def _are_ready(self) -> bool:
        for one in STAND_INS:
            status = self.api.get(PODS.path(one.namespace, one.name)).get("status", {})
            ready = [c["status"] for c in status.get("conditions", []) if c["type"] == "Ready"]
            if ready != ["True"]:
                return False
            self._addresses[one.name] = status["podIP"]
        return True

    def _apply(self, *documents: dict[str, Any]) -> None:
        given = yaml.dump_all(documents)
        self._kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=given)

    def _kubectl(self, *args: str, given: str = "") -> str:
        done = subprocess.run(
            [*self._command, *args], input=given, capture_output=True, text=True, timeout=180
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def _namespace(name: str, given: dict[str, str]) -> dict[str, Any]:
    metadata = {"name": f"paths-{name}", "labels": given}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


@pytest.fixture(scope="module")
def stand_ins() -> Iterator[Pods]:
    _, place = test_cluster()
    if missing := policies.lacking(place):
        pytest.skip(f"NETWORK POLICIES ARE NOT ENFORCED, AND NOT TESTED: {missing}")
    with installation(place):
        made = Pods()
        try:
            yield made
        finally:
            made.close()


@pytest.mark.timeout(600)
def test_each_pod_reaches_what_the_table_says_and_nothing_else(stand_ins: Pods) -> None:
    assert stand_ins.reached() == BETWEEN_ALL  # without a network that enforces policies

    with policies.enforced(stand_ins.cluster):
        stranger, gateway = STAND_INS[-1], STAND_INS[0].name
        is_shut = lambda: gateway not in {to for _, to, _ in stand_ins.reached_by(stranger)}  # noqa: E731
        began = time.monotonic()
        wait(is_shut, "a network that enforces policies", within_s=ENFORCED_S)
        print(f"policies: enforced after {time.monotonic() - began:.1f} s")
        found = stand_ins.reached()

    assert found - EXPECTED == set()
    assert EXPECTED - found == set()
    assert 0 < len(EXPECTED) < len(BETWEEN_ALL) / 4
    print(f"policies: {len(EXPECTED)} of {len(BETWEEN_ALL)} paths are open")
