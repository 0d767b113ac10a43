"""The resources of a cluster and their holders, read from its API for `capacity.room_for`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

from mlplatform.rollouts.kubernetes.api import KubernetesApi, Object
from mlplatform.rollouts.kubernetes.capacity import Need, Node, PodRequest, Quota, Scope
from mlplatform.rollouts.kubernetes.quantities import amounts

KEEPING_AWAY: Final = frozenset({"NoSchedule", "NoExecute"})
NOT_OURS: Final = frozenset({"Terminating", "BestEffort", "CrossNamespacePodAffinity"})
"""Scopes of ResourceQuotas that never hold pods of predictors."""
ENDED: Final = frozenset({"Succeeded", "Failed"})


def nodes(api: KubernetesApi) -> list[Node]:
    """Ready nodes that accept pods, each with the pods on it. It needs the right to list both."""
    on_node: dict[str, list[PodRequest]] = defaultdict(list)
    for pod in api.items("/api/v1/pods"):
        where = pod["spec"].get("nodeName")
        if where and pod["status"].get("phase") not in ENDED:
            on_node[where].append(PodRequest(requests(pod["spec"]), pod["spec"].get("priority", 0)))
    return [
        _node(n, on_node[n["metadata"]["name"]]) for n in api.items("/api/v1/nodes") if _usable(n)
    ]


def quotas(api: KubernetesApi, namespace: str) -> list[Quota]:
    """The namespace's ResourceQuotas, as their controller last counted them."""
    return [
        Quota(
            q["metadata"]["name"],
            amounts(q.get("status", {}).get("hard", {})),
            amounts(q.get("status", {}).get("used", {})),
            tuple(scopes),
        )
        for q in api.items(f"/api/v1/namespaces/{namespace}/resourcequotas")
        if (scopes := scopes_of(q["spec"])) is not None
    ]


def scopes_of(quota: Mapping[str, Any]) -> list[Scope] | None:
    """The PriorityClasses by which a ResourceQuota chooses pods; None if it does not count pods of
    predictors.

    Pods of predictors ask for resources and end at no deadline of their own.
    """
    asked = [{"scopeName": name, "operator": "Exists"} for name in quota.get("scopes", [])]
    asked += quota.get("scopeSelector", {}).get("matchExpressions", [])
    if any(a["scopeName"] in NOT_OURS for a in asked):
        return None
    ours = (a for a in asked if a["scopeName"] == "PriorityClass")
    return [Scope(a["operator"], frozenset(a.get("values") or ())) for a in ours]


def priority(api: KubernetesApi, name: str | None) -> tuple[int, bool]:
    """The value of a PriorityClass, and whether it preempts; value 0 if there is no class of that
    name."""
    found = None
    if name is not None:
        found = api.find(f"/apis/scheduling.k8s.io/v1/priorityclasses/{name}")
    if found is None:
        return 0, True
    return int(found["value"]), found.get("preemptionPolicy") != "Never"


def need_of(manifest: Mapping[str, Any], value: int, preempts: bool) -> Need:
    """The resources that an InferenceService requests, as `rollouts.serving.manifest` renders
    it."""
    predictor = manifest["spec"]["predictor"]
    return Need(
        service=manifest["metadata"]["name"],
        amounts=amounts(predictor["model"]["resources"]["requests"]),
        pods=predictor["minReplicas"],
        selector=predictor.get("nodeSelector", {}),
        tolerates=frozenset(t["key"] for t in predictor.get("tolerations", ())),
        priority=value,
        priority_class=predictor.get("priorityClassName", ""),
        preempts=preempts,
    )


def requests(pod: Mapping[str, Any]) -> dict[str, Decimal]:
    """The requests that the scheduler counts for a pod: those of its containers together, or of its
    largest init container."""
    total: dict[str, Decimal] = defaultdict(Decimal)
    for container in pod["containers"]:
        for name, amount in _of(container):
            total[name] += amount
    for container in pod.get("initContainers", ()):
        for name, amount in _of(container):
            total[name] = max(total[name], amount)
    return dict(total)


def _of(container: Mapping[str, Any]) -> Iterable[tuple[str, Decimal]]:
    asked = container.get("resources", {})
    return amounts({**asked.get("limits", {}), **asked.get("requests", {})}).items()


def _usable(node: Object) -> bool:
    ready = any(
        c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", ())
    )
    return ready and not node["spec"].get("unschedulable", False)


def _node(node: Object, taken: list[PodRequest]) -> Node:
    keeping = (t["key"] for t in node["spec"].get("taints", ()) if t["effect"] in KEEPING_AWAY)
    return Node(
        node["metadata"]["name"],
        amounts(node["status"]["allocatable"]),
        node["metadata"].get("labels", {}),
        frozenset(keeping),
        tuple(taken),
    )
