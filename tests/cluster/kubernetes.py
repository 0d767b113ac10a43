"""A Kubernetes on this machine, of one node or two: up, and down again without a trace."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Literal

from tests.cluster.certificates import Authority
from tests.cluster.layout import Layout
from tests.cluster.node import Node
from tests.cluster.processes import Failed, Holder, remove_cgroups, run_here, until
from tests.cluster.second_node import SecondNode

from mlplatform.rollouts.kubernetes.api import KubernetesApi

Level = Literal["control", "node"]


class TestCluster:
    """What `up` starts; `control` is an API server with its controllers, `node` runs pods too."""

    __test__ = False

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._holder = Holder(layout)
        self.node = Node(layout, self._holder)
        self.second = SecondNode(layout, self._holder)
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
            self.node.start()
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
        self.second.forget()
        self._holder.end()
        self._clear()
        self._say("down")

    def _say(self, what: str) -> None:
        print(f"cluster: {what}, {time.monotonic() - self._began:.1f} s", flush=True)

    def _clear(self) -> None:
        run_here(["ip", "link", "delete", f"{self.layout.link}"], check=False)
        remove_cgroups(self.layout.cgroup)
        shutil.rmtree(self.layout.run, ignore_errors=True)

    def _network(self) -> None:
        place = self.layout
        self._holder.start()
        peer = ["peer", "name", "eth0", "netns", str(self._holder.pid)]
        run_here(["ip", "link", "add", place.link, "type", "veth", *peer])
        run_here(["ip", "address", "add", f"{place.host_ip}/30", "dev", place.link])
        run_here(["ip", "link", "set", place.link, "up"])
        inside = self._holder.run
        inside(["ip", "link", "set", "lo", "up"])
        inside(["ip", "address", "add", f"{place.node_ip}/30", "dev", "eth0"])
        inside(["ip", "link", "set", "eth0", "up"])
        # Without a route the kernel gives up before kube-proxy's rules are asked. There is no
        # default route: nothing in here reaches further than this machine.
        inside(["ip", "route", "add", place.service_range, "dev", "eth0"])
        for reached in (place.pod_range, place.service_range):
            run_here(["ip", "route", "add", reached, "via", place.node_ip])
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

    def ctr(self, *arguments: str) -> bool:
        """Whether the client of the node's containerd ended well."""
        return self.node.ctr(*arguments)

    def pids(self) -> set[int]:
        """Every process of the cluster and its pods."""
        return self._holder.pids() | self.second.pids()

    def link_address(self, address: str) -> None:
        """One more address of this machine on its link to the cluster."""
        run_here(["ip", "address", "replace", f"{address}/32", "dev", self.layout.link])

    def inside(self, *command: str) -> bool:
        """Whether a command ended well that ran in the cluster's own network."""
        return self._holder.run(command, check=False)

    def daemon(self, name: str, command: list[str], **environment: str) -> None:
        """Start one more process beside the cluster's own; it ends with them."""
        self._holder.daemon(name, command, **environment)

    def end_daemon(self, name: str) -> None:
        self._holder.end_daemon(name)

    def _daemon(self, name: str, *flags: str) -> None:
        self._holder.daemon(name, [self.layout.bin / name, *flags])

    def _log(self, name: str) -> Path:
        return self.layout.run / "log" / f"{name}.log"


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
