"""A Kubernetes:
`python -m tests.cluster build|state|packages|up [LEVEL]|down|test [FLAGS]|demo [FLAGS]`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Final

from tests.cluster import (
    argo,
    build,
    demo,
    dns,
    envoy_gateway,
    gateway,
    kserve,
    metrics,
    predictor_image,
)
from tests.cluster.kubernetes import TestCluster
from tests.cluster.layout import ROOT, Layout, layout
from tests.cluster.processes import CGROUPS, Failed, resident_bytes

KUBECONFIG: Final = "MLPLATFORM_TEST_KUBECONFIG"
SUITES: Final = ("tests/cluster", "tests/contract/rollouts/serving/test_serving_plane.py")
STREAMS: Final = ("-n", "2", "--dist", "loadfile")
"""They wait for Kubernetes most of the time; each suite has namespaces of its own."""
MIB: Final = 1 << 20


def main(arguments: list[str]) -> int:
    """The exit status; 2 where a cluster cannot come up here."""
    command, *rest = arguments or ["help"]
    # As if it had failed: what was started ends, however long a caller is willing to wait.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    place = layout()
    cluster = TestCluster(place)
    try:
        match command:
            case "build":
                build.main(place)
            case "state":
                print(_state(place))
            case "packages":
                print(*build.lacking_packages(build.PACKAGES | build.OF_POLICIES))
            case "up":
                cluster.refuse_second()  # it may be somebody else's: only what starts here is ended
                build.main(place)
                _up_or_down(cluster, rest[0] if rest else "node")
                print(f"export {KUBECONFIG}={place.kubeconfig}")
            case "down":
                cluster.down()
            case "test":
                return _test(cluster, rest)
            case "demo":
                return demo.run(cluster, rest)
            case _:
                print(__doc__)
    except Failed as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 2
    return 0


def _state(place: Layout) -> str:
    """Whether the suites can run here, in a line that CI decides by and people read."""
    missing = build.lacking(place)
    if (CGROUPS / "cgroup.controllers").exists():
        missing.append("control groups of version 1: nobody has tried version 2")
    if missing:
        return f"lacking {'; '.join(missing)}"
    if not all((place.bin / command).exists() for command in ("etcd", *build.COMMANDS)):
        return "to be built"
    whole = all(part.is_built(place) for part in (argo, metrics, envoy_gateway))
    whole = whole and predictor_image.has_flows(place)
    return "built, whole" if whole else "built"


def _up_or_down(cluster: TestCluster, level: str) -> None:
    """Up, or nothing of it left."""
    try:
        _up(cluster, level)
    except BaseException:
        cluster.down()
        raise


def _up(cluster: TestCluster, level: str) -> None:
    if level not in ("control", "node"):
        raise Failed(f"{level!r} is no level: control or node")
    real = kserve.given()
    cluster.up("control" if level == "control" else "node")
    kserve.install(cluster, real)
    if level == "node":
        dns.install(cluster)
        gateway.install(cluster)
    if argo.is_built(cluster.layout):
        argo.install(cluster)
    if level == "node" and metrics.is_built(cluster.layout):
        metrics.install(cluster)


def _test(cluster: TestCluster, flags: list[str]) -> int:
    print(kserve.named(kserve.given()), flush=True)
    cluster.refuse_second()  # before anything whose end would end that one too
    began = time.monotonic()
    build.main(cluster.layout)
    built = time.monotonic()
    memory = _Peak(cluster)
    try:
        _up(cluster, "node")
        up = time.monotonic()
        environment = {**os.environ, KUBECONFIG: str(cluster.layout.kubeconfig)}
        command = [sys.executable, "-m", "pytest", *(flags or (*STREAMS, *SUITES))]
        status = subprocess.run(command, cwd=ROOT, env=environment).returncode
        tested = time.monotonic()
    finally:
        memory.stop()
        cluster.down()
    times = {"build": built - began, "start": up - built, "suites": tested - up}
    times["end"] = time.monotonic() - tested
    told = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in times.items())
    print(
        f"test-cluster: {told}; at most {memory.peak_bytes // MIB} MiB by the cluster and its pods"
    )
    return status


class _Peak:
    """The most memory that the cluster's processes held together, looked at every other second."""

    def __init__(self, cluster: TestCluster) -> None:
        self.peak_bytes = 0
        self._cluster = cluster
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(2):
            self.peak_bytes = max(self.peak_bytes, resident_bytes(self._cluster.pids()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
