"""metrics-server in the test cluster, where it was built: what pods use, for autoscalers by CPU."""

from __future__ import annotations

from typing import Any, Final

from tests.cluster.kubernetes import TestCluster
from tests.cluster.layout import Layout
from tests.cluster.processes import until

from mlplatform.rollouts.kubernetes.api import KubernetesApi

BINARY: Final = "metrics-server"
PORT: Final = 4443
NODES: Final = "/apis/metrics.k8s.io/v1beta1/nodes"
_NAMESPACE: Final = "/api/v1/namespaces/kube-system"
_SLICES: Final = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices"
_API_SERVICES: Final = "/apis/apiregistration.k8s.io/v1/apiservices"


def is_built(layout: Layout) -> bool:
    return (layout.bin / BINARY).exists()


def install(cluster: TestCluster) -> None:
    """It runs beside the API server, which asks it through a Service; returns once it has told."""
    place, pki = cluster.layout, cluster.layout.run / "pki"
    cluster.daemon(
        BINARY,
        [
            str(place.bin / BINARY),
            *(f"--{kind}kubeconfig={place.kubeconfig}" for kind in ("", *_DELEGATED)),
            f"--secure-port={PORT}",
            f"--tls-cert-file={pki / 'webhook.crt'}",
            f"--tls-private-key-file={pki / 'webhook.key'}",
            f"--kubelet-certificate-authority={pki / 'ca.crt'}",
            "--kubelet-preferred-address-types=InternalIP",
            "--metric-resolution=10s",
            "--kubelet-request-timeout=5s",
        ],
    )
    for path, body in _objects(place.node_ip):
        cluster.api.apply(path, body)
    log = place.run / "log" / f"{BINARY}.log"
    until(lambda: _tells(cluster.api), "metrics-server", within_s=90, log=log)


_DELEGATED: Final = ("authentication-", "authorization-")


def _tells(api: KubernetesApi) -> bool:
    """Until it has looked at the node twice, it knows of none; before that nobody serves it."""
    found = api.find(f"{_API_SERVICES}/v1beta1.metrics.k8s.io")
    conditions = [] if found is None else found.get("status", {}).get("conditions", [])
    if not any(c["type"] == "Available" and c["status"] == "True" for c in conditions):
        return False
    return bool(api.items(NODES))


def _objects(address: str) -> list[tuple[str, dict[str, Any]]]:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": BINARY, "namespace": "kube-system"},
        "spec": {"ports": [{"name": "https", "port": 443, "targetPort": PORT}]},
    }
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{BINARY}-host",
            "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": BINARY},
        },
        "addressType": "IPv4",
        "ports": [{"name": "https", "port": PORT, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
    }
    served = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": "v1beta1.metrics.k8s.io"},
        "spec": {
            "service": {"name": BINARY, "namespace": "kube-system"},
            "group": "metrics.k8s.io",
            "version": "v1beta1",
            "insecureSkipTLSVerify": True,  # its certificate is for addresses, not for the Service
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
        },
    }
    return [
        (f"{_NAMESPACE}/services/{BINARY}", service),
        (f"{_SLICES}/{BINARY}-host", endpoints),
        (f"{_API_SERVICES}/v1beta1.metrics.k8s.io", served),
    ]
