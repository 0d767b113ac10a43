"""CoreDNS in the test cluster: pods find Services by name, and nothing beyond the cluster."""

from __future__ import annotations

from typing import Final

from tests.cluster.kubernetes import TestCluster
from tests.cluster.processes import until

BINARY: Final = "coredns"
DOMAIN: Final = "cluster.local"
_READY_PORT: Final = 8181


def install(cluster: TestCluster) -> None:
    """It runs beside the API server, at the address that the kubelet gives to pods."""
    place = cluster.layout
    file = place.run / "Corefile"
    file.write_text(
        f".:53 {{\n    bind {place.node_ip}\n    ready 127.0.0.1:{_READY_PORT}\n    errors\n"
        f"    kubernetes {DOMAIN} {{\n        kubeconfig {place.kubeconfig}\n    }}\n}}\n"
    )
    cluster.daemon(BINARY, [str(place.bin / BINARY), "-conf", str(file)])
    probe = ("curl", "-fsS", "-m", "1", f"http://127.0.0.1:{_READY_PORT}/ready")
    log = place.run / "log" / f"{BINARY}.log"
    until(lambda: cluster.inside(*probe), "names of Services", within_s=60, log=log)
