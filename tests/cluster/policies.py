"""kube-router's firewall in the test cluster, which enforces network policies while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from tests.cluster.build import OF_POLICIES, lacking_packages
from tests.cluster.kubernetes import TestCluster
from tests.cluster.layout import Layout

BINARY: Final = "kube-router"


def lacking(layout: Layout) -> str:
    """What it takes to enforce policies and is not here, as a command; empty where all is."""
    if not (layout.bin / BINARY).exists():
        return "make cluster-build FULL=1"
    packages = lacking_packages(OF_POLICIES)
    return f"apt-get install {' '.join(packages)}" if packages else ""


@contextlib.contextmanager
def enforced(cluster: TestCluster) -> Iterator[None]:
    """Pods that no policy selects keep all their paths; at the end all have them again."""
    place = cluster.layout
    binary = str(place.bin / BINARY)
    command = [
        *(binary, f"--kubeconfig={place.kubeconfig}", f"--hostname-override={place.node}"),
        *("--run-firewall=true", "--run-router=false", "--run-service-proxy=false"),
        f"--service-cluster-ip-range={place.service_range}",
        *("--health-port=0", "--metrics-port=0"),
    ]
    cluster.daemon(BINARY, command)
    try:
        yield
    finally:
        cluster.end_daemon(BINARY)
        cluster.inside(binary, "--cleanup-config")
