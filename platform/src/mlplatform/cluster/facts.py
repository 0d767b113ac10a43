"""What `check` judges, read from a cluster's API."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Final

from mlplatform.cluster.api import KubernetesApi, Object
from mlplatform.cluster.check import Facts
from mlplatform.cluster.quantities import quantity
from mlplatform.errors import NotFound, Refused

KSERVE: Final = "kserve"
RIGHTS: Final = (
    *(("serving.kserve.io", "inferenceservices", v) for v in ("get", "create", "patch", "delete")),
    ("serving.kserve.io", "inferenceservices", "list"),
    ("apps", "deployments", "get"),
    ("", "pods", "list"),
    ("policy", "poddisruptionbudgets", "create"),
    ("policy", "poddisruptionbudgets", "patch"),
    ("keda.sh", "scaledobjects", "create"),
    ("keda.sh", "scaledobjects", "patch"),
)
"""Group, resource and verb, in the models' namespace: what KServePlane does."""
PRODUCT: Final = "nvidia.com/gpu.product"


def read(api: KubernetesApi, namespace: str, runtime: str) -> Facts:
    """Everything, in some twenty calls.

    What this user may not look at counts as absent; `rights` says what it may.

    Args:
        namespace: of the models.
        runtime: name of the platform's ClusterServingRuntime.

    Raises:
        Unavailable: the API server does not answer.
    """
    nodes = _items(api, "/api/v1/nodes")
    home = _find(api, f"/api/v1/namespaces/{namespace}")
    return Facts(
        version=api.get("/version")["gitVersion"],
        kinds=_kinds(api),
        controller_replicas=_controller(api),
        default_mode=_default_mode(api),
        runtime_image=_runtime_image(api, runtime),
        namespace=namespace,
        namespace_labels=None if home is None else home["metadata"].get("labels", {}),
        priorities=_names(api, "/apis/scheduling.k8s.io/v1/priorityclasses"),
        policies=frozenset(
            b["spec"]["policyName"]
            for b in _items(
                api, "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
            )
        ),
        storage_classes=_storage_classes(api),
        gpus=_gpus(nodes),
        gpu_products=frozenset(
            n["metadata"]["labels"][PRODUCT]
            for n in nodes
            if PRODUCT in n["metadata"].get("labels", {})
        ),
        rights={f"{v} {r}": _may(api, namespace, g, r, v) for g, r, v in RIGHTS},
    )


def _find(api: KubernetesApi, path: str) -> Object | None:
    try:
        return api.find(path)
    except Refused:
        return None


def _items(api: KubernetesApi, path: str) -> list[Object]:
    try:
        return api.items(path)
    except (NotFound, Refused):
        return []


def _names(api: KubernetesApi, path: str) -> frozenset[str]:
    return frozenset(item["metadata"]["name"] for item in _items(api, path))


def _kinds(api: KubernetesApi) -> dict[str, frozenset[str]]:
    """By discovery, which every user may ask, and not by the definitions themselves."""
    served: dict[str, set[str]] = defaultdict(set)
    wanted = ("serving.kserve.io", "gateway.networking.k8s.io", "keda.sh", "argoproj.io")
    for group in api.get("/apis")["groups"]:
        if group["name"] not in wanted:
            continue
        for version in group["versions"]:
            for resource in api.get(f"/apis/{version['groupVersion']}")["resources"]:
                served[f"{resource['name']}.{group['name']}"].add(version["version"])
    return {kind: frozenset(versions) for kind, versions in served.items()}


def _controller(api: KubernetesApi) -> int | None:
    path = f"/apis/apps/v1/namespaces/{KSERVE}/deployments/kserve-controller-manager"
    found = _find(api, path)
    return None if found is None else int(found.get("status", {}).get("availableReplicas", 0))


def _default_mode(api: KubernetesApi) -> str | None:
    found = _find(api, f"/api/v1/namespaces/{KSERVE}/configmaps/inferenceservice-config")
    if found is None:
        return None
    try:
        mode = json.loads(found["data"]["deploy"])["defaultDeploymentMode"]
    except (KeyError, TypeError, ValueError):
        return None
    return str(mode)


def _runtime_image(api: KubernetesApi, name: str) -> str | None:
    found = _find(api, f"/apis/serving.kserve.io/v1alpha1/clusterservingruntimes/{name}")
    if found is None:
        return None
    return str(found["spec"]["containers"][0]["image"])


def _storage_classes(api: KubernetesApi) -> dict[str, bool]:
    default = "storageclass.kubernetes.io/is-default-class"
    return {
        item["metadata"]["name"]: item["metadata"].get("annotations", {}).get(default) == "true"
        for item in _items(api, "/apis/storage.k8s.io/v1/storageclasses")
    }


def _gpus(nodes: list[Object]) -> dict[str, int]:
    total: dict[str, int] = defaultdict(int)
    for node in nodes:
        for name, text in node["status"].get("allocatable", {}).items():
            if name.startswith("nvidia.com/"):
                total[name] += int(quantity(text))
    return {name: count for name, count in total.items() if count}


def _may(api: KubernetesApi, namespace: str, group: str, resource: str, verb: str) -> bool:
    asked = {"namespace": namespace, "group": group, "resource": resource, "verb": verb}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    answer = api.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    return bool(answer["status"]["allowed"])
