"""A node of the test cluster: container runtime, kubelet and proxy in namespaces of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import yaml
from tests.cluster.build import cni_folder
from tests.cluster.layout import Layout
from tests.cluster.processes import Failed, Holder, make_cgroups, until

from mlplatform.rollouts.kubernetes.api import KubernetesApi

DISK_BYTES: Final = 40 << 30
"""At most, for images and containers: of a file that grows as it is written."""
PAUSE: Final = "mlplatform.test/pause:1"
CONTAINERD_NAMESPACE: Final = "k8s.io"


class Node:
    """What runs pods; its network, certificates and kubeconfigs are there before it starts."""

    def __init__(self, layout: Layout, holder: Holder) -> None:
        self.layout = layout
        self._holder = holder

    @property
    def api(self) -> KubernetesApi:
        return KubernetesApi.connect(str(self.layout.kubeconfig))

    def start(self) -> None:
        """Returns once Kubernetes finds it ready."""
        place = self.layout
        make_cgroups(place.cgroup)
        self._configure()
        self._make_disk()
        self._holder.daemon("containerd", ["containerd", "--config", place.run / "containerd.toml"])
        until(lambda: self.ctr("version"), "containerd", within_s=30, log=self._log("containerd"))
        for archive in sorted(place.images.glob("*.tar")):
            if not self.ctr("images", "import", str(archive)):
                raise Failed(f"containerd did not take {archive}")
        self._daemon(
            "kubelet",
            f"--config={place.run / 'kubelet.yaml'}",
            f"--kubeconfig={place.run / 'kubelet.conf'}",
            f"--root-dir={place.run / 'kubelet'}",
            f"--hostname-override={place.node}",
            f"--node-ip={place.node_ip}",
            f"--cert-dir={place.run / 'pki'}",
        )
        self._daemon("kube-proxy", f"--config={place.run / 'proxy.yaml'}")
        until(self._is_ready, "the node", within_s=90, log=self._log("kubelet"))
        probe = ["curl", "-fsS", "-m", "1", "http://127.0.0.1:10256/healthz"]
        proxied = lambda: self._holder.run(probe, check=False)  # noqa: E731
        until(proxied, "kube-proxy", within_s=60, log=self._log("kube-proxy"))

    def ctr(self, *arguments: str) -> bool:
        """Whether containerd's own client ended well."""
        command = ["ctr", "-a", str(self.layout.socket), "-n", CONTAINERD_NAMESPACE, *arguments]
        return self._holder.run(command, check=False)

    def _make_disk(self) -> None:
        """A file system in one file for what images hold, where loop devices are: to remove their
        hundred thousand files one by one takes minutes on some disks."""
        root, disk = self.layout.run / "containerd" / "root", self.layout.run / "containerd.ext4"
        root.mkdir(parents=True)
        with disk.open("wb") as file:
            file.truncate(DISK_BYTES)
        for command in (
            ["mkfs.ext4", "-q", str(disk)],
            ["mount", "-o", "loop", str(disk), str(root)],
        ):
            if not self._holder.run(command, check=False):
                print(f"cluster: images lie in a folder, as {command[0]} failed", flush=True)
                return

    def _daemon(self, name: str, *flags: str) -> None:
        self._holder.daemon(name, [self.layout.bin / name, *flags])

    def _log(self, name: str) -> Path:
        return self.layout.run / "log" / f"{name}.log"

    def _is_ready(self) -> bool:
        node = self.api.find(f"/api/v1/nodes/{self.layout.node}")
        conditions = [] if node is None else node["status"].get("conditions", [])
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def _configure(self) -> None:
        place = self.layout
        plugins = cni_folder()
        if plugins is None:
            raise Failed("no network plug-ins: containernetworking-plugins")
        (place.run / "containerd.toml").write_text(_containerd(place, plugins))
        network = place.run / "cni"
        network.mkdir()
        (network / "10-bridge.conflist").write_text(json.dumps(_bridge(place)))
        (place.run / "kubelet.yaml").write_text(yaml.safe_dump(_kubelet(place)))
        (place.run / "proxy.yaml").write_text(yaml.safe_dump(_proxy(place)))


def _containerd(place: Layout, plugins: Path) -> str:
    # Lowering an OOM score takes a capability that sandboxes withhold: it is left as it is.
    return f"""version = 2
root = "{place.run}/containerd/root"
state = "{place.run}/containerd/state"
oom_score = 0
[grpc]
  address = "{place.socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{place.run}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
"""


def _bridge(place: Layout) -> dict[str, Any]:
    addresses = {
        "type": "host-local",
        "dataDir": str(place.run / "cni-addresses"),
        "ranges": [[{"subnet": place.pod_range}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": addresses,
    }
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}


def _kubelet(place: Layout) -> dict[str, Any]:
    pki = place.run / "pki"
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "0.0.0.0",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / "kubelet.crt"),
        "tlsPrivateKeyFile": str(pki / "kubelet.key"),
        "containerRuntimeEndpoint": f"unix://{place.socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{place.cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "clusterDNS": [place.control_ip],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "enforceNodeAllocatable": ["pods"],
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%"},
        "nodeStatusUpdateFrequency": "5s",
        "syncFrequency": "10s",
        "maxPods": 60,
        "imageMinimumGCAge": "24h",
        "volumePluginDir": str(place.run / "static"),
    }


def _proxy(place: Layout) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": str(place.run / "proxy.conf")},
        "hostnameOverride": place.node,
        "clusterCIDR": place.pod_range,
        "oomScoreAdj": 0,
        # These settings of the kernel are read-only in a namespace: they are not touched.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
        "bindAddress": "0.0.0.0",
        "metricsBindAddress": "127.0.0.1:10249",
    }
