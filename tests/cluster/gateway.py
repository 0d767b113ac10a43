"""The Gateway of the test cluster: Envoy, and a controller that tells it about HTTPRoutes."""

from __future__ import annotations

import json
import sys
from typing import Final

from tests.cluster.kserve import make_namespace
from tests.cluster.kubernetes import TestCluster
from tests.cluster.layout import ROOT, Layout
from tests.cluster.standin import envoy
from tests.cluster.standin.gateway import ADMIN_PORT, CONTROLLER, NAME, NAMESPACE, PORT

CLASS: Final = "mlplatform-test"
_ROOT: Final = "/apis/gateway.networking.k8s.io/v1"


def url(layout: Layout) -> str:
    """Where callers come in."""
    return f"http://{layout.node_ip}:{PORT}"


def install(cluster: TestCluster) -> None:
    """The Gateway as an object, Envoy with nothing to route, and the controller between them."""
    api, folder = cluster.api, cluster.layout.run / "envoy"
    body = {"apiVersion": "gateway.networking.k8s.io/v1", "metadata": {"name": CLASS}}
    kind = {"kind": "GatewayClass", "spec": {"controllerName": CONTROLLER}}
    api.apply(f"{_ROOT}/gatewayclasses/{CLASS}", body | kind, force=True)
    make_namespace(api, NAMESPACE)
    listener = {
        "name": "http",
        "protocol": "HTTP",
        "port": PORT,
        "allowedRoutes": {"namespaces": {"from": "All"}},
    }
    spec = {"gatewayClassName": CLASS, "listeners": [listener]}
    gateway = {"kind": "Gateway", "metadata": {"name": NAME}, "spec": spec}
    api.apply(f"{_ROOT}/namespaces/{NAMESPACE}/gateways/{NAME}", body | gateway, force=True)
    folder.mkdir()
    _configure(cluster.layout)
    binary = cluster.layout.envoy / "envoy" / "_bin" / "envoy"
    flags = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning")
    cluster.daemon("envoy", [str(binary), "-c", str(folder / "envoy.json"), *flags])
    module = "tests.cluster.standin.gateway"
    command = [sys.executable, "-m", module, str(cluster.layout.kubeconfig), str(folder)]
    cluster.daemon("gateway", command, PYTHONPATH=f"{ROOT}:{ROOT / 'platform' / 'src'}")


def _configure(layout: Layout) -> None:
    folder = layout.run / "envoy"
    files = {
        "envoy.json": envoy.bootstrap(folder, port=PORT, admin_port=ADMIN_PORT),
        "clusters.json": envoy.clusters([], folder, "none"),
        "routes.json": envoy.routes([], "none"),
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
