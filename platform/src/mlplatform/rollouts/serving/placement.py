"""Placement and resources of a model's pods: from model.yaml to fields of a pod."""

from __future__ import annotations

from typing import Any, Final

from mlplatform.model.definition import ModelDefinition
from mlplatform.model.policies.serving import ServingPolicy
from mlplatform.model.policies.training import GpuPolicy

PRODUCTION: Final = "mlplatform-production"
DEVELOPMENT: Final = "mlplatform-development"
"""PriorityClasses of platform/manifests; pods that serve requests may displace pods for trials."""
GPU_TAINT: Final = "nvidia.com/gpu"
"""Key of the taint that keeps other pods off a cluster's GPU nodes."""
PRODUCT_LABEL: Final = "nvidia.com/gpu.product"
"""Label of a node's GPU product, set by NVIDIA's feature discovery."""
WHOLE: Final = GpuPolicy(resource="nvidia.com/gpu", count=1)

_CPU: Final = {
    "requests": {"cpu": "500m", "memory": "256Mi"},
    "limits": {"cpu": "1", "memory": "512Mi"},
}
_BESIDE_GPU: Final = {
    "requests": {"cpu": "1", "memory": "2Gi"},
    "limits": {"cpu": "2", "memory": "4Gi"},
}


def priority_class(definition: ModelDefinition) -> str:
    """The priority class of a model's predictors: its team's own if there is one, because quotas
    count pods by it."""
    return PRODUCTION if definition.team is None else f"{PRODUCTION}-{definition.team}"


def gpu_of(definition: ModelDefinition) -> GpuPolicy | None:
    """The GPU that each pod of a model holds: a whole one unless model.yaml says more; None for a
    model without GPUs."""
    return None if definition.accelerator == "cpu" else definition.gpu or WHOLE


def resources(definition: ModelDefinition) -> dict[str, dict[str, str]]:
    """Requests and limits of a predictor, always set, so that KServe's defaults never apply.

    A value in model.yaml is both request and limit: a model that needs 6 GB has them, or is not
    placed.
    """
    gpu = gpu_of(definition)
    named = _amounts(definition.serving)
    if gpu is not None:
        named[gpu.resource] = str(gpu.count)
    usual = _CPU if gpu is None else _BESIDE_GPU
    return {part: amounts | named for part, amounts in usual.items()}


def _amounts(serving: ServingPolicy) -> dict[str, str]:
    named = {}
    if serving.cpus is not None:
        named["cpu"] = f"{round(serving.cpus * 1000)}m"
    if serving.memory_mib is not None:
        named["memory"] = f"{serving.memory_mib}Mi"
    return named


def placement(definition: ModelDefinition, name: str) -> dict[str, Any]:
    """Fields of the predictor that say where its pods go and how they are replaced.

    Pods are spread over zones and nodes as far as there are any. With GPUs, an old pod ends before
    its successor starts: a spare GPU for the time of an update would have to be paid for all year.

    Args:
        name: name of the InferenceService.
    """
    placed: dict[str, Any] = {
        "priorityClassName": priority_class(definition),
        "topologySpreadConstraints": [
            _spread(f"isvc.{name}-predictor", key)
            for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
        ],
    }
    gpu = gpu_of(definition)
    if gpu is None:
        return placed
    placed["tolerations"] = [{"key": GPU_TAINT, "operator": "Exists", "effect": "NoSchedule"}]
    if gpu.product is not None:
        placed["nodeSelector"] = {PRODUCT_LABEL: gpu.product}
    rolling = {"maxSurge": 0, "maxUnavailable": 1}
    placed["deploymentStrategy"] = {"type": "RollingUpdate", "rollingUpdate": rolling}
    return placed


def _spread(app: str, key: str) -> dict[str, Any]:
    return {
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": app}},
    }
