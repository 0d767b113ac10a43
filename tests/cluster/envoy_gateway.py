"""Envoy Gateway in the test cluster, where it was built: a controller that others run in earnest.

It and its Envoy are pods. Starting them takes time, so the suite that needs them starts them.
"""

from __future__ import annotations

import os
import subprocess
from typing import Any, Final

from tests.cluster.kserve import MANIFESTS, apply_definition, documents, make_namespace
from tests.cluster.kubernetes import TestCluster
from tests.cluster.layout import Layout
from tests.cluster.processes import Failed, until

from mlplatform.rollouts.kubernetes.api import KubernetesApi, Resource

BINARY: Final = "envoy-gateway"
NAMESPACE: Final = "edge"
NAME: Final = "envoy-gateway"
PORT: Final = 8000
_OWN: Final = "envoy-gateway-system"
_GATEWAYS: Final = Resource("gateway.networking.k8s.io/v1", "gateways")
_PLURALS: Final = {"EnvoyProxy": "envoyproxies", "GatewayClass": "gatewayclasses"}


def is_built(layout: Layout) -> bool:
    """Whether the controller, its definition and both images are in the cache."""
    images = [layout.gateway_images / f"{name}.tar" for name in (BINARY, "envoy")]
    return all(p.exists() for p in (layout.bin / BINARY, layout.cache / "gateway", *images))


def begin(cluster: TestCluster) -> None:
    """Controller and Gateway, whose pods are started."""
    api, place = cluster.api, cluster.layout
    for archive in sorted(place.gateway_images.glob("*.tar")):
        if not cluster.ctr("images", "import", str(archive)):
            raise Failed(f"containerd did not take {archive}")
    for document in documents([place.cache / "gateway"]):
        apply_definition(api, document)
    make_namespace(api, NAMESPACE)
    make_namespace(api, _OWN)
    _make_secrets(place)
    for document in documents([MANIFESTS / "envoy-gateway.yaml"]):
        api.apply(_path(document), document)


def url(api: KubernetesApi) -> str:
    """Where callers come in, once the Gateway says that they may."""
    found: list[str] = []
    until(lambda: found.extend(_addresses(api)) or found, "Envoy Gateway", within_s=90)
    return f"http://{found[0]}:{PORT}"


def remove(api: KubernetesApi) -> None:
    """Its pods go; nobody else needs what they hold."""
    api.delete(_GATEWAYS.path(NAMESPACE, NAME))
    api.delete(f"/api/v1/namespaces/{_OWN}")


def _make_secrets(place: Layout) -> None:
    """Certificates that the controller and its Envoys show each other."""
    command = [str(place.bin / BINARY), "certgen", "--disable-topology-injector"]
    settings = {"KUBECONFIG": str(place.kubeconfig), "ENVOY_GATEWAY_NAMESPACE": _OWN}
    done = subprocess.run(
        command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=60
    )
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: {done.stdout[-500:]}{done.stderr[-500:]}")


def _path(document: dict[str, Any]) -> str:
    version, kind, metadata = document["apiVersion"], document["kind"], document["metadata"]
    plural = _PLURALS.get(kind, f"{kind.lower()}s")
    if "namespace" in metadata:
        return Resource(version, plural).path(metadata["namespace"], metadata["name"])
    return f"/apis/{version}/{plural}/{metadata['name']}"


def _addresses(api: KubernetesApi) -> list[str]:
    """Empty until it is programmed: its Envoy is ready then."""
    status = api.get(_GATEWAYS.path(NAMESPACE, NAME)).get("status", {})
    told = {c["type"]: c["status"] for c in status.get("conditions", [])}
    if told.get("Programmed") != "True":
        return []
    return [address["value"] for address in status.get("addresses", [])]
