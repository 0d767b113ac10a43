"""What network policies have to let through besides, where an installation's surroundings are no
pods: its servers and the names of Services beside the cluster, and this machine, which stands for
whoever calls, scrapes and operates."""

from __future__ import annotations

from typing import Any, Final

from tests.cluster.layout import Layout
from tests.cluster.volumes import NAMESPACE

from support.network_paths import HTTPS, KAFKA, MODELS, OPENS, POSTGRES, REDIS, Path_, labels, pods

SERVERS: Final = {"postgres": {POSTGRES}, "redis": {REDIS}, "s3": {HTTPS}, "kafka": KAFKA}
"""Server → how network policies name it."""


def surroundings(place: Layout, ports: dict[str, int]) -> list[dict[str, Any]]:
    """Policies that let each pod of the manifests open the servers that the table of paths gives
    it, and no others.

    Args:
        ports: of the servers beside the cluster.
    """
    here, names = _address(place.host_ip), _address(place.node_ip)
    asks = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    found = [_policy("beside-in", NAMESPACE, {}, ingress=[{"from": [here]}])]
    for namespace in (NAMESPACE, MODELS):
        egress = [{"to": [names], "ports": asks}]
        found.append(_policy("beside-names", namespace, {}, egress=egress))
    for name, pod in pods().items():
        opened = [{"protocol": "TCP", "port": port} for port in _opened(OPENS[name], ports)]
        if opened:
            egress = [{"to": [here], "ports": opened}]
            found.append(_policy(f"beside-{name}", NAMESPACE, _chosen(pod), egress=egress))
    return found


def _opened(paths: set[Path_], ports: dict[str, int]) -> list[int]:
    return sorted(port for server, port in ports.items() if SERVERS[server] & paths)


def _chosen(pod: dict[str, Any]) -> dict[str, str]:
    """Labels that a run of any flow has, or those of the one program."""
    found = labels(pod)
    mark = "mlplatform/flow-run"
    return {mark: found[mark]} if mark in found else found


def _address(ip: str) -> dict[str, Any]:
    return {"ipBlock": {"cidr": f"{ip}/32"}}


def _policy(
    name: str, namespace: str, chosen: dict[str, str], **paths: list[dict[str, Any]]
) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "podSelector": {"matchLabels": chosen},
        "policyTypes": [kind.capitalize() for kind in paths],
        **paths,
    }
    metadata = {"name": name, "namespace": namespace}
    kind = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
    return {**kind, "metadata": metadata, "spec": spec}
