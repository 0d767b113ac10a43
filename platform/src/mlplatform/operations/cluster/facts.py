"""Facts about a cluster, read from its API for `check`."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from mlplatform.operations.cluster.finding import (
    ClusterFacts,
    ClusterRequirements,
    Controller,
    UnreadableObject,
    VolumeClaim,
)
from mlplatform.operations.cluster.installation import LET_IN
from mlplatform.operations.cluster.installation import SECRETS as WANTED_SECRETS
from mlplatform.operations.cluster.rights import RIGHTS, Right
from mlplatform.rollouts.kubernetes.api import (
    CLAIMS,
    DEPLOYMENTS,
    SECRETS,
    STATEFUL_SETS,
    KubernetesApi,
    Object,
)
from mlplatform.rollouts.kubernetes.quantities import quantity
from mlplatform.rollouts.kubernetes.supply import quotas
from mlplatform.rollouts.serving.manifest import PREDICTORS
from mlplatform.rollouts.serving.placement import PRODUCT_LABEL
from mlplatform.runtime.errors import NotFound, Refused

CONTROLLER: Final = "kserve-controller-manager"
VERSION_LABEL: Final = "app.kubernetes.io/version"


def read(api: KubernetesApi, wanted: ClusterRequirements) -> ClusterFacts:
    """Read all facts in about fifty calls; changes nothing and asks for no Secret's value.

    Raises:
        Unavailable: the API server does not answer.
    """
    nodes = _items(api, "/api/v1/nodes", "nodes")
    every_namespace = _items(api, "/api/v1/namespaces", "namespaces")
    return ClusterFacts(
        version=api.get("/version")["gitVersion"],
        kinds=_kinds(api),
        controller=_controller(api, wanted.kserve),
        default_mode=_default_mode(api, wanted.kserve),
        runtimes={name: _runtime_image(api, name) for name in PREDICTORS},
        namespaces={n: _labels(api, n) for n in (wanted.models, wanted.platform)},
        labelled=every_namespace
        if isinstance(every_namespace, UnreadableObject)
        else _admitted_labels(every_namespace),
        priorities=_names(api, "/apis/scheduling.k8s.io/v1/priorityclasses"),
        policies=_policies(api),
        storage_classes=_storage_classes(api),
        claims={
            (n, wanted.bundles): _claim(api, n, wanted.bundles)
            for n in (wanted.models, wanted.platform)
            if wanted.bundles
        },
        secrets={name: _keys(api, wanted.platform, name) for name in WANTED_SECRETS},
        workloads=_workloads(api, wanted.platform),
        quota_classes=_quota_classes(api, wanted.models),
        gpus=nodes if isinstance(nodes, UnreadableObject) else _gpus(nodes),
        gpu_products=frozenset() if isinstance(nodes, UnreadableObject) else _products(nodes),
        rights=_rights(api, wanted),
    )


def _find(api: KubernetesApi, path: str, what: str) -> Object | UnreadableObject | None:
    try:
        return api.find(path)
    except Refused:
        return UnreadableObject(f"this user may not get {what}")


def _items(api: KubernetesApi, path: str, what: str) -> list[Object] | UnreadableObject:
    try:
        return api.items(path)
    except NotFound:
        return []
    except Refused:
        return UnreadableObject(f"this user may not list {what}")


def _names(api: KubernetesApi, path: str) -> frozenset[str] | UnreadableObject:
    found = _items(api, path, path.rsplit("/", 1)[-1])
    if isinstance(found, UnreadableObject):
        return found
    return frozenset(item["metadata"]["name"] for item in found)


def _kinds(api: KubernetesApi) -> dict[str, frozenset[str]]:
    """Kind → served versions, by discovery, which every user may read, unlike the definitions
    themselves."""
    served: dict[str, set[str]] = defaultdict(set)
    wanted = ("serving.kserve.io", "gateway.networking.k8s.io", "keda.sh", "argoproj.io")
    for group in api.get("/apis")["groups"]:
        if group["name"] not in wanted:
            continue
        for version in group["versions"]:
            for resource in api.get(f"/apis/{version['groupVersion']}")["resources"]:
                served[f"{resource['name']}.{group['name']}"].add(version["version"])
    return {kind: frozenset(versions) for kind, versions in served.items()}


def _controller(api: KubernetesApi, namespace: str) -> Controller | UnreadableObject | None:
    path = DEPLOYMENTS.path(namespace, CONTROLLER)
    found = _find(api, path, f"deployments of {namespace}")
    if found is None or isinstance(found, UnreadableObject):
        return found
    answering = int(found.get("status", {}).get("availableReplicas", 0))
    return Controller(answering, version_of(found))


def version_of(deployment: Mapping[str, object]) -> str | None:
    """KServe's version, from the tag of its controller's image or from a label; None if none of
    them has one."""
    found: Object = dict(deployment)
    pod = found["spec"]["template"]["spec"]["containers"]
    images = [c["image"] for c in pod if c["name"] == "manager"] or [c["image"] for c in pod]
    tag = re.search(r":(v?\d+\.\d+[^@/:]*)(@|$)", images[0])
    labelled = found["metadata"].get("labels", {}).get(VERSION_LABEL, "")
    version = tag[1] if tag else labelled
    return str(version) if re.match(r"v?\d+\.\d+", version) else None


def _default_mode(api: KubernetesApi, namespace: str) -> str | UnreadableObject | None:
    path = f"/api/v1/namespaces/{namespace}/configmaps/inferenceservice-config"
    found = _find(api, path, f"configmaps of {namespace}")
    if found is None or isinstance(found, UnreadableObject):
        return found
    try:
        mode = json.loads(found["data"]["deploy"])["defaultDeploymentMode"]
    except (KeyError, TypeError, ValueError):
        return None
    return str(mode)


def _runtime_image(api: KubernetesApi, name: str) -> str | UnreadableObject | None:
    path = f"/apis/serving.kserve.io/v1alpha1/clusterservingruntimes/{name}"
    found = _find(api, path, "clusterservingruntimes")
    if found is None or isinstance(found, UnreadableObject):
        return found
    return str(found["spec"]["containers"][0]["image"])


def _labels(api: KubernetesApi, namespace: str) -> Mapping[str, str] | UnreadableObject | None:
    found = _find(api, f"/api/v1/namespaces/{namespace}", f"namespace {namespace}")
    if found is None or isinstance(found, UnreadableObject):
        return found
    return dict(found["metadata"].get("labels", {}))


def _admitted_labels(namespaces: list[Object]) -> dict[str, frozenset[str]]:
    return {
        label: frozenset(
            n["metadata"]["name"]
            for n in namespaces
            if n["metadata"].get("labels", {}).get(label) == "true"
        )
        for label in LET_IN
    }


def _policies(api: KubernetesApi) -> frozenset[str] | UnreadableObject:
    kind = "validatingadmissionpolicybindings"
    found = _items(api, f"/apis/admissionregistration.k8s.io/v1/{kind}", kind)
    return (
        found
        if isinstance(found, UnreadableObject)
        else frozenset(b["spec"]["policyName"] for b in found)
    )


def _storage_classes(api: KubernetesApi) -> dict[str, bool] | UnreadableObject:
    default = "storageclass.kubernetes.io/is-default-class"
    found = _items(api, "/apis/storage.k8s.io/v1/storageclasses", "storageclasses")
    if isinstance(found, UnreadableObject):
        return found
    return {
        item["metadata"]["name"]: item["metadata"].get("annotations", {}).get(default) == "true"
        for item in found
    }


def _claim(api: KubernetesApi, namespace: str, name: str) -> VolumeClaim | UnreadableObject | None:
    what = f"persistentvolumeclaims of {namespace}"
    found = _find(api, CLAIMS.path(namespace, name), what)
    if found is None or isinstance(found, UnreadableObject):
        return found
    status = found.get("status", {})
    return VolumeClaim(
        phase=status.get("phase", "Pending"),
        modes=frozenset(status.get("accessModes") or found["spec"].get("accessModes", ())),
        storage_class=found["spec"].get("storageClassName") or None,
    )


def _keys(
    api: KubernetesApi, namespace: str, name: str
) -> frozenset[str] | UnreadableObject | None:
    """The keys of a Secret, read from the field owners in its metadata, so that no value is
    sent."""
    try:
        metadata = api.metadata(SECRETS.path(namespace, name))
    except Refused:
        return UnreadableObject(f"this user may not get secrets of {namespace}")
    if metadata is None:
        return None
    if "managedFields" not in metadata:
        return UnreadableObject("its managedFields, which name its keys, were removed")
    fields = [entry.get("fieldsV1", {}) for entry in metadata["managedFields"]]
    written = [f.get(part, {}) for f in fields for part in ("f:data", "f:stringData")]
    return frozenset(key.removeprefix("f:") for keys in written for key in keys if key != ".")


def _workloads(api: KubernetesApi, namespace: str) -> bool | UnreadableObject:
    found = _find(api, STATEFUL_SETS.path(namespace, "gateway"), f"statefulsets of {namespace}")
    return found if isinstance(found, UnreadableObject) else found is not None


def _quota_classes(api: KubernetesApi, namespace: str) -> frozenset[str] | UnreadableObject:
    try:
        found = quotas(api, namespace)
    except Refused:
        return UnreadableObject(f"this user may not list resourcequotas of {namespace}")
    return frozenset(c for q in found for s in q.scopes if s.operator == "In" for c in s.classes)


def _gpus(nodes: list[Object]) -> dict[str, int]:
    total: dict[str, int] = defaultdict(int)
    for node in nodes:
        for name, text in node["status"].get("allocatable", {}).items():
            if name.startswith("nvidia.com/"):
                total[name] += int(quantity(text))
    return {name: count for name, count in total.items() if count}


def _products(nodes: list[Object]) -> frozenset[str]:
    labels = [n["metadata"].get("labels", {}) for n in nodes]
    return frozenset(of[PRODUCT_LABEL] for of in labels if PRODUCT_LABEL in of)


def _rights(api: KubernetesApi, wanted: ClusterRequirements) -> dict[Right, bool]:
    where = {"models": wanted.models, "jobs": wanted.jobs, "cluster": ""}
    return {
        right: _may(api, namespace, right)
        for right in RIGHTS
        if (namespace := where[right.where]) is not None
    }


def _may(api: KubernetesApi, namespace: str, right: Right) -> bool:
    asked = {
        "namespace": namespace,
        "group": right.group,
        "resource": right.resource,
        "verb": right.verb,
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    answer = api.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    return bool(answer["status"]["allowed"])
