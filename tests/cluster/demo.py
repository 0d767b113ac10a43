"""The demo in the cluster profile: a Kubernetes and servers of its own, and the loop in them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import Final

from tests.cluster import build, kserve
from tests.cluster.kubernetes import TestCluster
from tests.cluster.layout import ROOT
from tests.servers import instances

from mlplatform.rollouts.kubernetes.api import INFERENCE_SERVICES
from mlplatform.runtime.storage import addresses
from support.kserve_world import bundles_volume
from support.ports import free_ports

NAMESPACE: Final = "mlplatform-models"
HOME: Final = ROOT / "build" / "demo-cluster"
"""Kept for its report and logs; begun anew each time, as the servers are."""
PORTS: Final = ("GATEWAY_PORT", "PREFECT_PORT", "MLFLOW_PORT", "PAGE_PORT")
PACE: Final = "0.3"
"""Two cores have a Kubernetes to run beside the platform, and features are in another process."""
COLUMNS: Final = "150"  # of tables, where nobody knows how wide a log is
STOP_S: Final = 60.0


def run(cluster: TestCluster, flags: list[str]) -> int:
    """The demo's exit status: 0 where the loop closed."""
    print(kserve.named(kserve.given()), flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    build.main(cluster.layout)
    with contextlib.ExitStack() as ends:
        environment = {**os.environ, **_servers(ends), **_cluster(cluster, ends), **_own()}
        print(f"demo-cluster: servers and cluster, {time.monotonic() - began:.0f} s", flush=True)
        _run("mlplatform.commands", "cluster", "check", environment=environment)
        options = ("--profile", "cluster", "--pace", PACE, *flags)
        status = _run("demo", *options, environment=environment)
        _say_what_served(cluster)
    print(f"demo-cluster: {time.monotonic() - began:.0f} s in all", flush=True)
    return status


def _servers(ends: contextlib.ExitStack) -> dict[str, str]:
    """Each is started here, or the one that the environment names, as for `make test-servers`."""
    postgres, redis, s3, kafka = (
        instances.postgres(),
        instances.redis(),
        instances.s3(),
        instances.kafka(),
    )
    for one in (postgres, redis, s3, kafka):
        print(f"demo-cluster: {one.version}", flush=True)
        if one.server is not None:
            ends.callback(one.server.close)
    platform, registry = postgres.database(), postgres.database()
    redis.empty()
    return {
        **addresses.variables("MLPLATFORM_POSTGRES", platform),
        **addresses.variables("MLPLATFORM_MLFLOW_POSTGRES", registry),
        **addresses.variables("MLPLATFORM_REDIS", redis.address),
        **addresses.variables("MLPLATFORM_KAFKA", kafka.brokers),
        "MLPLATFORM_MLFLOW_ARTIFACTS": f"s3://{s3.bucket()}/mlflow",
        **s3.environment,
    }


def _cluster(cluster: TestCluster, ends: contextlib.ExitStack) -> dict[str, str]:
    """Up, with what `docs/cluster.md` has a platform engineer apply before the first service."""
    place = cluster.layout
    cluster.refuse_second()  # before anything whose end would end that one too
    ends.callback(cluster.down)
    cluster.up("node")
    kserve.install(cluster, kserve.given())
    kubectl = [str(place.bin / "kubectl"), f"--kubeconfig={place.kubeconfig}"]
    base = ROOT / "platform" / "manifests" / "base"
    subprocess.run([*kubectl, "apply", "--server-side", "-k", str(base)], check=True)
    bundles = place.volumes / NAMESPACE
    bundles.mkdir()
    bundles.chmod(0o755)  # predictors are another user, and have no other secret to keep there
    bundles_volume(cluster.api, NAMESPACE, bundles)
    return {
        "KUBECONFIG": str(place.kubeconfig),
        "MLPLATFORM_KSERVE_NAMESPACE": NAMESPACE,
        "MLPLATFORM_KSERVE_BUNDLES": "pvc://bundles",
        "MLPLATFORM_KSERVE_REPLICAS": "1",  # a node of two cores has room for four
        "MLPLATFORM_BUNDLES": str(bundles),
    }


def _own() -> dict[str, str]:
    shutil.rmtree(HOME, ignore_errors=True)
    ports = {
        f"MLPLATFORM_{name}": str(port)
        for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)
    }
    named = {name: os.environ[name] for name in ports if name in os.environ}
    return {"MLPLATFORM_HOME": str(HOME), "COLUMNS": COLUMNS, **ports, **named}


def _run(module: str, *words: str, environment: dict[str, str]) -> int:
    """Exit status of a module's program; when this process is told to end, it tells the command."""
    command = [sys.executable, "-m", module, *words]
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(STOP_S)


def _say_what_served(cluster: TestCluster) -> None:
    for service in cluster.api.items(INFERENCE_SERVICES.path(NAMESPACE)):
        print(f"demo-cluster: InferenceService {service['metadata']['name']}", flush=True)
