"""`components/backup` beside the platform's pods: a backup by hand, the loss of all that it holds,
and the restore of it as docs/backup.md has it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import yaml
from tests.cluster import volumes
from tests.cluster.gateway_pods import scale
from tests.cluster.platform_pods import MANIFESTS, MODELS, MORE, Platform
from tests.cluster.volumes import NAMESPACE

from mlplatform.rollouts.kubernetes.api import INFERENCE_SERVICES, PODS
from support.platform_process import wait

JOB_S: Final = 300.0
GATEWAYS: Final = ("statefulset/gateway", "statefulset/gateway-more")


def install(platform: Platform) -> Path:
    """The overlay with the component, and a volume for backups and for two Jobs each. Returns what
    the volume of backups holds."""
    for name in ("checked-0", "checked-1"):
        volumes.empty_folder(platform.place, name)
        platform.apply(volumes.of_any_claim(platform.place, name))
    folder = volumes.empty_folder(platform.place, "backups")
    platform.apply(volumes.of_claim(platform.place, "backups"))
    platform.apply_overlay("backup")
    return folder


def take(platform: Platform) -> dict[str, Any]:
    """What the CronJob's Job says, run once by hand."""
    create = ("create", "job", "--from=cronjob/backup", "backup-now", "-n", NAMESPACE)
    platform.kubectl(*create)
    return _ended(platform, "backup-now")


def lose(platform: Platform) -> None:
    """All that a backup holds and this cluster has of it: the first gateway's volume, bundles and
    services. The databases and the bucket are those that nobody names any more."""
    patch = ("--patch", '{"spec": {"suspend": true}}')
    platform.kubectl("patch", "cronjob", "backup", "-n", NAMESPACE, *patch)
    for each in GATEWAYS:
        scale(platform, each, 0)
    platform.kubectl("scale", "-n", NAMESPACE, "--replicas=0", "--all", "deployment")
    platform.kubectl("delete", "jobs", "--all", "-n", NAMESPACE, "--timeout=60s")
    platform.kubectl("delete", "pod", "commands", "-n", NAMESPACE, "--timeout=60s")
    wait(
        lambda: not platform.api.items(PODS.path(NAMESPACE)), "the end of all pods", within_s=JOB_S
    )
    for service in platform.api.items(INFERENCE_SERVICES.path(MODELS)):
        platform.api.delete(INFERENCE_SERVICES.path(MODELS, service["metadata"]["name"]))
    claim = "home-gateway-0"
    platform.kubectl("delete", "pvc", claim, "-n", NAMESPACE, "--timeout=60s")
    platform.delete(volumes.of_claim(platform.place, claim))
    volumes.empty_folder(platform.place, claim)
    for path in platform.bundles.iterdir():
        shutil.rmtree(path)


def restore(platform: Platform, backup: str) -> dict[str, Any]:
    """What the restore's Job says: into a new volume, new databases and a new bucket, from which
    everything then starts."""
    platform.at = platform.servers.empty()
    platform.apply(volumes.of_claim(platform.place, "home-gateway-0"))
    platform.apply(_claim("home-gateway-0"))
    changed = json.dumps({"data": platform.at.variables})
    platform.kubectl("patch", "configmap", "platform", "-n", NAMESPACE, "--patch", changed)
    for document in yaml.safe_load_all(platform.kubectl("kustomize", str(MANIFESTS / "restore"))):
        [container] = document["spec"]["template"]["spec"]["containers"]
        [named] = [v for v in container["env"] if v["name"] == "BACKUP"]
        named["value"] = Path(backup).name
        platform.apply(platform.installed(document))
    report = _ended(platform, "restore")
    platform.apply_overlay()
    platform.until_ready(*MORE, "replicator")
    return report


def _ended(platform: Platform, job: str) -> dict[str, Any]:
    path = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs/{job}"

    def is_over() -> bool:
        conditions = platform.api.get(path).get("status", {}).get("conditions", [])
        return any(
            c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in conditions
        )

    wait(is_over, f"the end of Job {job}", within_s=JOB_S)
    said = platform.kubectl("logs", f"job/{job}", "-n", NAMESPACE)
    status = platform.api.get(path)["status"]
    assert status.get("succeeded") == 1, said
    report: dict[str, Any] = json.loads(said[said.index("{") :])
    return report


def _claim(name: str) -> dict[str, Any]:
    """A claim as the StatefulSet makes it, where that is not there yet."""
    mode, size = volumes.CLAIMS[name]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "accessModes": [mode],
            "resources": {"requests": {"storage": size}},
            "storageClassName": "",
        },
    }
