"""A second node of the test cluster, behind a link to the first one, which may be lost at once."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tests.cluster.layout import Layout, second
from tests.cluster.node import Node
from tests.cluster.processes import Failed, Holder, remove_cgroups, run_here

LINK: Final = "second"
"""The first node's end of it."""
OUT_OF_SERVICE: Final = "node.kubernetes.io/out-of-service"


class SecondNode:
    """Namespaces, runtime, kubelet and proxy of its own. The first node has the control plane, and
    leads to this machine and back."""

    def __init__(self, first: Layout, holder: Holder) -> None:
        self.layout = second(first)
        self._first, self._first_holder = first, holder
        self._holder = Holder(self.layout)
        self._node = Node(self.layout, self._holder)

    def join(self, archives: Iterable[Path]) -> None:
        """Returns once it is ready and has these images beside those of every node."""
        place = self.layout
        for name in ("log", "pid", "pki"):
            (place.run / name).mkdir(parents=True)
        for name in ("ca.crt", "service-accounts.pub"):
            shutil.copy(self._first.run / "pki" / name, place.run / "pki")
        for suffix in ("crt", "key"):
            named = f"{place.node}.{suffix}"
            shutil.copy(self._first.run / "pki" / named, place.run / "pki" / f"kubelet.{suffix}")
        shutil.copy(self._first.run / f"{place.node}.conf", place.run / "kubelet.conf")
        for name in ("proxy.conf", "admin.conf"):
            shutil.copy(self._first.run / name, place.run)
        self._network()
        self._node.start()
        for archive in archives:
            if not self._node.ctr("images", "import", str(archive)):
                raise Failed(f"containerd did not take {archive}")

    def lose(self) -> None:
        """As by a power cut: its processes and those of its pods at once, and its link."""
        self._holder.end()

    def forget(self) -> None:
        """Leave nothing of it on this machine."""
        self.lose()
        for reached in (self.layout.pod_range, self._between):
            run_here(["ip", "route", "delete", reached], check=False)
        remove_cgroups(self.layout.cgroup)
        shutil.rmtree(self.layout.run, ignore_errors=True)

    def pids(self) -> set[int]:
        """Every process of it and of its pods."""
        return self._holder.pids()

    @property
    def _between(self) -> str:
        return f"{self.layout.node_ip.rpartition('.')[0]}.4/30"

    def _network(self) -> None:
        place = self.layout
        self._holder.start()
        there, here = self._holder.run, self._first_holder.run
        peer = ["peer", "name", "eth0", "netns", str(self._holder.pid)]
        here(["ip", "link", "add", LINK, "type", "veth", *peer])
        here(["ip", "address", "add", f"{place.host_ip}/30", "dev", LINK])
        here(["ip", "link", "set", LINK, "up"])
        there(["ip", "link", "set", "lo", "up"])
        there(["ip", "address", "add", f"{place.node_ip}/30", "dev", "eth0"])
        there(["ip", "link", "set", "eth0", "up"])
        there(["ip", "route", "add", "default", "via", place.host_ip])
        there(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
        there(["sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1"], check=False)
        here(["ip", "route", "add", place.pod_range, "via", place.node_ip])
        for reached in (place.pod_range, self._between):
            run_here(["ip", "route", "replace", reached, "via", self._first.node_ip])
