"""Types of a cluster's check: facts, requirements and findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from mlplatform.operations.cluster.rights import Right

State = Literal["ok", "lacking", "unknown", "optional"]
"""State of a finding: `unknown` could not be checked and does not count as passed; `optional` is
lacking, but only the functions that use it stop."""


@dataclass(frozen=True, slots=True)
class CheckFinding:
    """One checked thing.

    Args:
        what: it is, and where.
        seen: what is there.
        do: what mends it; empty where it is ok.
    """

    state: State
    what: str
    seen: str
    do: str = ""


@dataclass(frozen=True, slots=True)
class UnreadableObject:
    """An object that this user may not read: whether it exists is not known.

    Args:
        why: not, in words.
    """

    why: str


@dataclass(frozen=True, slots=True)
class Controller:
    """KServe's controller.

    Args:
        answering: its pods that do.
        version: the tag of its image, or the version that its labels name; None where neither says.
    """

    answering: int
    version: str | None


@dataclass(frozen=True, slots=True)
class Claim:
    """A PersistentVolumeClaim.

    Args:
        phase: Bound, Pending or Lost.
        modes: how its volume may be mounted, or how it asks to be while it has none.
        storage_class: that it names; None where it names none.
    """

    phase: str
    modes: frozenset[str]
    storage_class: str | None


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """Facts read from a cluster.

    Args:
        version: of the API server, as `v1.34.4`.
        kinds: definitions that are served: `<plural>.<group>` → versions.
        controller: None where there is no such deployment, which says nothing if it runs elsewhere.
        default_mode: KServe's own default; None without its configuration.
        runtime_image: of the platform's serving runtime; None where it is not applied.
        namespaces: the models' and the platform's → labels; None where there is none of that name.
        labelled: labels with which namespaces are let in → those that have them.
        priorities: names of PriorityClasses.
        policies: names of ValidatingAdmissionPolicies that are bound.
        storage_classes: name → whether it is the default.
        claims: namespace and name → claim; None where there is none.
        secrets: of the platform's namespace, name → keys, never values; None where there is none.
        workloads: whether the platform's own processes are applied.
        quota_classes: PriorityClasses whose pods have a ResourceQuota of their own with the models.
        gpus: resource → how many all nodes have together.
        gpu_products: labels of the nodes that have them.
        rights: right → whether this user has it.
    """

    version: str
    kinds: Mapping[str, frozenset[str]]
    controller: Controller | UnreadableObject | None
    default_mode: str | UnreadableObject | None
    runtime_image: str | UnreadableObject | None
    namespaces: Mapping[str, Mapping[str, str] | UnreadableObject | None]
    labelled: Mapping[str, frozenset[str]] | UnreadableObject
    priorities: frozenset[str] | UnreadableObject
    policies: frozenset[str] | UnreadableObject
    storage_classes: Mapping[str, bool] | UnreadableObject
    claims: Mapping[tuple[str, str], Claim | UnreadableObject | None]
    secrets: Mapping[str, frozenset[str] | UnreadableObject | None]
    workloads: bool | UnreadableObject
    quota_classes: frozenset[str] | UnreadableObject
    gpus: Mapping[str, int] | UnreadableObject
    gpu_products: frozenset[str]
    rights: Mapping[Right, bool]


@dataclass(frozen=True, slots=True)
class Gpu:
    """The GPU that model.yaml asks for.

    Args:
        resource: as nodes offer it.
        product: label of the nodes; None for any.
    """

    model: str
    resource: str
    product: str | None


@dataclass(frozen=True, slots=True)
class ClusterRequirements:
    """Requirements of this release of the platform, its models and its settings.

    Args:
        models: namespace of the predictors.
        platform: namespace of the platform's own processes.
        kserve: namespace of KServe's controller.
        jobs: namespace of Argo's workflows; None: no heavy job runs there.
        priorities: PriorityClasses that manifests name.
        team_priorities: those of teams that a model.yaml names.
        policy: the admission policy of platform/manifests.
        image: of the serving runtime.
        bundles: name of the claim.
        gpus: of all models that ask for any.
    """

    models: str
    platform: str
    kserve: str
    jobs: str | None
    priorities: tuple[str, ...]
    team_priorities: tuple[str, ...]
    policy: str
    image: str
    bundles: str
    gpus: tuple[Gpu, ...] = ()


APPLY_BASE: Final = "kubectl apply -k platform/manifests/base"
APPLY_WORKLOADS: Final = "an overlay of platform/manifests/workloads (docs/cluster.md)"


def unreadable_finding(what: str, missing: UnreadableObject) -> CheckFinding:
    """The finding of a check that could not be made; it does not count as passed."""
    return CheckFinding(
        "unknown",
        what,
        f"not looked at: {missing.why}",
        "ask as somebody who may (--kubeconfig, --context), or look by hand",
    )
