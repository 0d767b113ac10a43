"""Where the test cluster keeps what it builds and what it runs, and which addresses it takes."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
KUBERNETES: Final = "v1.34.4"


@dataclass(frozen=True, slots=True)
class Layout:
    """Folders and addresses of one test cluster; a machine has room for one at a time.

    Args:
        cache: what is built once: binaries and images. Outside the working tree.
        run: certificates, logs and container storage of the cluster that runs; `down` removes it.
        link: of this machine to the node.
        host_ip: at the other end of the node's link.
        control_ip: of the API server, and of what knows names.
    """

    cache: Path
    run: Path
    link: str = "mlp-cluster"
    cgroup: str = "mlplatform-cluster"
    node: str = "mlp-node"
    host_ip: str = "10.77.0.1"
    node_ip: str = "10.77.0.2"
    control_ip: str = "10.77.0.2"
    pod_range: str = "10.244.0.0/24"
    service_range: str = "10.96.0.0/16"
    service_ip: str = "10.96.0.1"

    @property
    def bin(self) -> Path:
        return self.cache / "bin"

    @property
    def images(self) -> Path:
        return self.cache / "images"

    @property
    def gateway_images(self) -> Path:
        """Apart from the others, as one suite alone takes them: importing takes seconds."""
        return self.cache / "gateway-images"

    @property
    def flow_images(self) -> Path:
        """Apart from the others too."""
        return self.cache / "flow-images"

    @property
    def envoy(self) -> Path:
        """Envoy's wheel, unpacked."""
        return self.cache / "envoy"

    @property
    def kubeconfig(self) -> Path:
        return self.run / "admin.conf"

    @property
    def volumes(self) -> Path:
        """Folders of this machine that pods mount as persistent volumes."""
        return self.run / "volumes"

    @property
    def socket(self) -> Path:
        """containerd's."""
        return self.run / "containerd.sock"

    @property
    def server(self) -> str:
        return f"https://{self.control_ip}:6443"


def layout() -> Layout:
    """As `MLPLATFORM_CLUSTER_CACHE` says, or below the user's cache folder."""
    cache_home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    named = os.environ.get("MLPLATFORM_CLUSTER_CACHE")
    cache = Path(named) if named else Path(cache_home) / "mlplatform" / "cluster"
    return Layout(cache.absolute(), cache.absolute() / "run")


def second(first: Layout) -> Layout:
    """Of a second node of the same cluster, whose link is to the first one."""
    return replace(
        first,
        run=first.run / "second",
        node="mlp-second",
        host_ip="10.77.0.5",
        node_ip="10.77.0.6",
        pod_range="10.244.1.0/24",
        cgroup="mlplatform-second",
    )
