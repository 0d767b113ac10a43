"""The last release on the test cluster, and its upgrade to this tree as CHANGELOG.md has it."""

from __future__ import annotations

from typing import Any, Final

import yaml
from tests.cluster import last_release, predictor_image
from tests.cluster.gateway_pods import GATEWAYS, until_back
from tests.cluster.layout import Layout
from tests.cluster.platform_pods import MODELS, THIS, Platform, Release
from tests.cluster.volumes import NAMESPACE

from support.platform_process import wait

END_S: Final = 300.0
RUNTIME: Final = "kserve/runtimes/mlplatform-onnx.yaml"
PATCHES: Final = {
    # Its MLflow makes the folder of bundles, on a root that is read-only; its probes leave a node
    # that is short of processors too little time (both mended since).
    "0.3.0": [
        {
            "target": {"kind": "Deployment", "name": "mlflow"},
            "patch": """
- {op: add, path: /spec/template/spec/volumes/-, value: {name: bundles, emptyDir: {}}}
- op: add
  path: /spec/template/spec/containers/0/volumeMounts/-
  value: {name: bundles, mountPath: /var/lib/bundles}
- {op: replace, path: /spec/template/spec/containers/0/livenessProbe/failureThreshold, value: 18}
""",
        },
        {
            "target": {"kind": "Deployment", "name": "prefect"},
            "patch": """
- {op: replace, path: /spec/template/spec/containers/0/livenessProbe/failureThreshold, value: 18}
""",
        },
        {
            "target": {"kind": "StatefulSet"},
            "patch": """
- {op: replace, path: /spec/template/spec/containers/0/startupProbe/failureThreshold, value: 180}
""",
        },
    ]
}
"""Release → what an installation of it has patched."""


def last(place: Layout) -> Release:
    """Raises LastReleaseMissing: its commit is not here."""
    tree = last_release.tree(place)
    patches: list[dict[str, Any]] = PATCHES.get(last_release.version(), [])
    return Release(tree, predictor_image.LAST, patches)


def take_runtime(platform: Platform) -> None:
    """The installed release's runtime of predictors, for its namespace alone: that of the cluster
    is this tree's, as other suites use it meanwhile."""
    [runtime] = yaml.safe_load_all((platform.release.root / RUNTIME).read_text())
    runtime["kind"] = "ServingRuntime"
    runtime["metadata"]["namespace"] = MODELS
    for container in runtime["spec"]["containers"]:
        container["image"] = platform.release.image(container["image"])
    platform.apply(runtime)


def to_this_tree(platform: Platform) -> None:
    """Stop what works on the first gateway's home beside it, apply what is new; returns once all of
    it is ready."""
    before = {name: (platform.pod(name) or {})["metadata"]["uid"] for name in GATEWAYS}
    _stop_beside(platform)
    platform.release = THIS
    platform.apply_base()
    platform.apply_overlay()
    platform.kubectl("delete", "servingruntime", "mlplatform-onnx", "-n", MODELS)
    until_back(platform, before)
    platform.until_ready(*GATEWAYS, "replicator")


def _stop_beside(platform: Platform) -> None:
    scale = ("scale", "-n", NAMESPACE, "--replicas=0")
    platform.kubectl(*scale, "deployment/prefect-worker")  # no run begins from here on
    jobs = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
    active = lambda: [j for j in platform.api.items(jobs) if j["status"].get("active")]  # noqa: E731
    wait(lambda: not active(), "the end of flow runs", within_s=END_S)
    platform.kubectl("delete", "jobs", "--all", "-n", NAMESPACE, "--timeout=60s")
    platform.kubectl(*scale, "deployment", "--all")
    platform.kubectl("delete", "pod", "commands", "-n", NAMESPACE, "--timeout=60s")
    wait(lambda: set(platform.pods()) <= set(GATEWAYS), "gateways alone", within_s=END_S)
