"""A Kubernetes of one node on this machine: up, and down again without a trace."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from tests.cluster.build import cni_folder
from tests.cluster.certificates import Authority
from tests.cluster.layout import Layout
from tests.cluster.processes import Failed, Holder, make_cgroups, remove_cgroups, until

from mlplatform.rollouts.kubernetes.api import KubernetesApi

Level = Literal["control", "node"]
DISK_BYTES: Final = 40 << 30
"""At most, for images and containers: of a file that grows as it is written."""
PAUSE: Final = "mlplatform.test/pause:1"
CONTAINERD_NAMESPACE: Final = "k8s.io"


class TestCluster:
    """What `up` starts; `control` is an API server with its controllers, `node` runs pods too."""

    __test__ = False

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._holder = Holder(layout)
        self._began = time.monotonic()

    @property
    def api(self) -> KubernetesApi:
        return KubernetesApi.connect(str(self.layout.kubeconfig))

    def up(self, level: Level = "node") -> None:
        """Start it; returns when it is ready.

        Raises:
            Failed: one is up already, or a part did not start.
        """
        self.refuse_second()
        self._began = time.monotonic()
        self._clear()
        for name in ("log", "pid", "volumes", "static"):
            (self.layout.run / name).mkdir(parents=True)
        Authority(self.layout).write_all()
        self._network()
        self._control_plane()
        self._say("control plane")
        if level == "node":
            self._node()
            self._say("node")

    def refuse_second(self) -> None:
        """Raises Failed: one is up already, and may be somebody else's."""
        if self._holder.pid is not None:
            raise Failed(
                f"a test cluster is up: {self.layout.kubeconfig} (make cluster-down ends it)"
            )

    def down(self) -> None:
        """End it, if it runs, and remove what it left."""
        self._began = time.monotonic()
        self._holder.end()
        self._clear()
        self._say("down")

    def _say(self, what: str) -> None:
        print(f"cluster: {what}, {time.monotonic() - self._began:.1f} s", flush=True)

    def _clear(self) -> None:
        _run(["ip", "link", "delete", f"{self.layout.link}"], check=False)
        remove_cgroups(self.layout.cgroup)
        shutil.rmtree(self.layout.run, ignore_errors=True)

    def _network(self) -> None:
        place = self.layout
        self._holder.start()
        peer = ["peer", "name", "eth0", "netns", str(self._holder.pid)]
        _run(["ip", "link", "add", place.link, "type", "veth", *peer])
        _run(["ip", "address", "add", f"{place.host_ip}/30", "dev", place.link])
        _run(["ip", "link", "set", place.link, "up"])
        inside = self._holder.run
        inside(["ip", "link", "set", "lo", "up"])
        inside(["ip", "address", "add", f"{place.node_ip}/30", "dev", "eth0"])
        inside(["ip", "link", "set", "eth0", "up"])
        # Without a route the kernel gives up before kube-proxy's rules are asked. There is no
        # default route: nothing in here reaches further than this machine.
        inside(["ip", "route", "add", place.service_range, "dev", "eth0"])
        for reached in (place.pod_range, place.service_range):
            _run(["ip", "route", "add", reached, "via", place.node_ip])
        inside(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
        inside(["sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1"], check=False)

    def _control_plane(self) -> None:
        place, pki = self.layout, self.layout.run / "pki"
        self._daemon(
            "etcd",
            f"--data-dir={place.run / 'etcd'}",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--log-level=warn",
            "--unsafe-no-fsync",
        )
        self._daemon("kube-apiserver", *_api_server_flags(place, pki))
        until(self.api.ready, "the API server", within_s=120, log=self._log("kube-apiserver"))
        self._daemon(
            "kube-controller-manager",
            f"--kubeconfig={place.run / 'controllers.conf'}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--root-ca-file={pki / 'ca.crt'}",
            f"--service-account-private-key-file={pki / 'service-accounts.key'}",
            "--use-service-account-credentials",
        )
        self._daemon(
            "kube-scheduler",
            f"--kubeconfig={place.run / 'scheduler.conf'}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
        )
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        log = self._log("kube-controller-manager")
        until(lambda: self.api.find(account), "the controllers", within_s=60, log=log)

    def _node(self) -> None:
        place = self.layout
        make_cgroups(place.cgroup)
        self._configure_node()
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
        until(self._node_ready, "the node", within_s=90, log=self._log("kubelet"))
        probe = ["curl", "-fsS", "-m", "1", "http://127.0.0.1:10256/healthz"]
        proxied = lambda: self._holder.run(probe, check=False)  # noqa: E731
        until(proxied, "kube-proxy", within_s=60, log=self._log("kube-proxy"))

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
                self._say(f"images lie in a folder, as {command[0]} failed")
                return

    def ctr(self, *arguments: str) -> bool:
        """Whether containerd's own client ended well."""
        command = ["ctr", "-a", str(self.layout.socket), "-n", CONTAINERD_NAMESPACE, *arguments]
        return self._holder.run(command, check=False)

    def pids(self) -> set[int]:
        """Every process of the cluster and its pods."""
        return self._holder.pids()

    def link_address(self, address: str) -> None:
        """One more address of this machine on its link to the cluster."""
        _run(["ip", "address", "replace", f"{address}/32", "dev", self.layout.link])

    def inside(self, *command: str) -> bool:
        """Whether a command ended well that ran in the cluster's own network."""
        return self._holder.run(command, check=False)

    def daemon(self, name: str, command: list[str], **environment: str) -> None:
        """Start one more process beside the cluster's own; it ends with them."""
        self._holder.daemon(name, command, **environment)

    def _daemon(self, name: str, *flags: str) -> None:
        self._holder.daemon(name, [self.layout.bin / name, *flags])

    def _log(self, name: str) -> Path:
        return self.layout.run / "log" / f"{name}.log"

    def _node_ready(self) -> bool:
        node = self.api.find(f"/api/v1/nodes/{self.layout.node}")
        conditions = [] if node is None else node["status"].get("conditions", [])
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def _configure_node(self) -> None:
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


def _api_server_flags(place: Layout, pki: Path) -> list[str]:
    return [
        "--etcd-servers=http://127.0.0.1:2379",
        "--bind-address=0.0.0.0",  # of the cluster's own namespace: the machine's link leads there
        "--secure-port=6443",
        f"--advertise-address={place.node_ip}",
        f"--service-cluster-ip-range={place.service_range}",
        "--allow-privileged",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--kubelet-client-certificate={pki / 'kubelet-client.crt'}",
        f"--kubelet-client-key={pki / 'kubelet-client.key'}",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki / 'service-accounts.pub'}",
        f"--service-account-signing-key-file={pki / 'service-accounts.key'}",
        f"--requestheader-client-ca-file={pki / 'ca.crt'}",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={pki / 'front-proxy.crt'}",
        f"--proxy-client-key-file={pki / 'front-proxy.key'}",
    ]


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
        "clusterDNS": [place.node_ip],
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


def _run(command: list[str], *, check: bool = True) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(command)}: {done.stderr.strip()}")
