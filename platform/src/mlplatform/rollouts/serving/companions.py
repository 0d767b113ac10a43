"""Objects that belong to an InferenceService and that KServe does not make: disruption budget and
autoscaler."""

from __future__ import annotations

from typing import Any

from mlplatform.rollouts.serving.autoscaling import declared_scaling, scaled_object
from mlplatform.rollouts.serving.plane import Manifest


def disruption_budget(manifest: Manifest, uid: str) -> dict[str, Any] | None:
    """The PodDisruptionBudget of a service: while a node is drained, one pod at a time may go.

    None for a service of one pod: a budget would only keep its node from ever being drained.

    Args:
        uid: uid of the InferenceService; deleting the service deletes the budget too.
    """
    name = manifest["metadata"]["name"]
    if manifest["spec"]["predictor"]["minReplicas"] < 2:
        return None
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {
            "name": name,
            "labels": manifest["spec"]["predictor"]["labels"],
            "ownerReferences": [_owner(manifest, uid)],
        },
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": {"app": f"isvc.{name}-predictor"}},
        },
    }


def autoscaler(manifest: Manifest, uid: str, prometheus_url: str) -> dict[str, Any] | None:
    """The ScaledObject of a service; None where its manifest asks for none.

    Args:
        uid: uid of the InferenceService; deleting the service deletes the autoscaler too.
        prometheus_url: address at which KEDA's operator reaches Prometheus.
    """
    policy = declared_scaling(manifest)
    if policy is None:
        return None
    made = scaled_object(manifest, policy, prometheus_url)
    made["metadata"]["ownerReferences"] = [_owner(manifest, uid)]
    return made


def _owner(manifest: Manifest, uid: str) -> dict[str, str]:
    name = manifest["metadata"]["name"]
    return {
        "apiVersion": manifest["apiVersion"],
        "kind": manifest["kind"],
        "name": name,
        "uid": uid,
    }
