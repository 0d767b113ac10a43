"""What goes with an InferenceService and KServe does not make: the disruption budget."""

from __future__ import annotations

from typing import Any

from mlplatform.serving.plane import Manifest


def disruption_budget(manifest: Manifest, uid: str) -> dict[str, Any] | None:
    """The PodDisruptionBudget of a service: while a node is drained, one pod at a time may go.

    None for a service of one pod: a budget would only keep its node from ever being drained.

    Args:
        uid: of the InferenceService, which takes the budget with it when it is deleted.
    """
    name = manifest["metadata"]["name"]
    if manifest["spec"]["predictor"]["minReplicas"] < 2:
        return None
    owner = {
        "apiVersion": manifest["apiVersion"],
        "kind": manifest["kind"],
        "name": name,
        "uid": uid,
    }
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {
            "name": name,
            "labels": manifest["spec"]["predictor"]["labels"],
            "ownerReferences": [owner],
        },
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": {"app": f"isvc.{name}-predictor"}},
        },
    }
