"""Rights that the platform needs from an API server; this list is the only source for them.

The Roles of platform/manifests and argo/ give these and no others, `mlplatform cluster check` asks
for them, and tests hold both, and the calls of the adapters, to this list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

Use = Literal["services", "GPUs", "autoscaling", "raw callers", "heavy jobs", "addresses"]
"""The use of a right; only a machine beside the cluster uses `addresses`."""
Where = Literal["models", "jobs", "cluster"]
"""The scope of a right: the models' namespace, the jobs' namespace, or the whole cluster."""


@dataclass(frozen=True, slots=True)
class Right:
    """One verb on one kind of object.

    Args:
        group: API group; empty for the core group of Kubernetes.
    """

    use: Use
    where: Where
    verb: str
    group: str
    resource: str

    def __str__(self) -> str:
        kind = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {kind}"


def _rights(use: Use, where: Where, verbs: str, group: str, resource: str) -> Iterator[Right]:
    for verb in verbs.split():
        yield Right(use, where, verb, group, resource)


RIGHTS: Final = (
    *_rights(
        "services", "models", "get list create patch delete", "serving.kserve.io",
        "inferenceservices",
    ),
    # Why a service is not ready.
    *_rights("services", "models", "get", "apps", "deployments"),
    *_rights("services", "models", "list", "", "pods"),
    *_rights("services", "models", "create patch", "policy", "poddisruptionbudgets"),
    # Whether the namespace's quotas leave room for a version.
    *_rights("services", "models", "list", "", "resourcequotas"),
    # Nodes, and all pods that hold GPUs, show whether GPUs are free.
    *_rights("GPUs", "cluster", "list", "", "nodes"),
    *_rights("GPUs", "cluster", "list", "", "pods"),
    *_rights("GPUs", "cluster", "get", "scheduling.k8s.io", "priorityclasses"),
    *_rights("autoscaling", "models", "create patch", "keda.sh", "scaledobjects"),
    *_rights(
        "raw callers", "models", "get create patch", "gateway.networking.k8s.io", "httproutes"
    ),
    *_rights("heavy jobs", "jobs", "get create patch", "argoproj.io", "workflows"),
    *_rights("addresses", "models", "get", "", "services"),
)  # fmt: skip
