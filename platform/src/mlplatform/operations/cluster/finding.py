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
        what: the thing and its place.
        seen: what the check found.
        do: how to repair it; empty if it is ok.
    """

    state: State
    what: str
    seen: str
    do: str = ""


@dataclass(frozen=True, slots=True)
class UnreadableObject:
    """An object that this user may not read: whether it exists is not known.

    Args:
        why: why it can't be read, in words.
    """

    why: str


@dataclass(frozen=True, slots=True)
class Controller:
    """KServe's controller.

    Args:
        answering: number of its pods that answer.
        version: tag of its image, or the version in its labels; None if neither names one.
    """

    answering: int
    version: str | None


@dataclass(frozen=True, slots=True)
class VolumeClaim:
    """A PersistentVolumeClaim.

    Args:
        phase: Bound, Pending or Lost.
        modes: access modes of its volume, or those that it requests while it has none.
        storage_class: name of its storage class; None if it names none.
    """

    phase: str
    modes: frozenset[str]
    storage_class: str | None


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """Facts read from a cluster.

    Args:
        version: version of the API server, such as `v1.34.4`.
        kinds: `<plural>.<group>` → versions that the cluster serves.
        controller: None if there is no such deployment; the controller may still run elsewhere.
        default_mode: KServe's default deployment mode; None if KServe has no configuration.
        runtimes: serving runtime of the platform → its image; None if it is not applied.
        namespaces: name of the models' and of the platform's namespace → labels; None if it does
            not exist.
        labelled: label that gives a namespace access → namespaces that have it.
        priorities: names of PriorityClasses.
        policies: names of ValidatingAdmissionPolicies that are bound.
        storage_classes: name → whether it is the default class.
        claims: namespace and name → claim; None if it does not exist.
        secrets: name of a secret in the platform's namespace → names of its keys, never values;
            None if it does not exist.
        workloads: whether the platform's own processes are applied.
        quota_classes: PriorityClasses with a ResourceQuota of their own in the models' namespace.
        gpus: resource → number on all nodes together.
        gpu_products: product labels of the nodes with GPUs.
        rights: right → whether this user has it.
    """

    version: str
    kinds: Mapping[str, frozenset[str]]
    controller: Controller | UnreadableObject | None
    default_mode: str | UnreadableObject | None
    runtimes: Mapping[str, str | UnreadableObject | None]
    namespaces: Mapping[str, Mapping[str, str] | UnreadableObject | None]
    labelled: Mapping[str, frozenset[str]] | UnreadableObject
    priorities: frozenset[str] | UnreadableObject
    policies: frozenset[str] | UnreadableObject
    storage_classes: Mapping[str, bool] | UnreadableObject
    claims: Mapping[tuple[str, str], VolumeClaim | UnreadableObject | None]
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
        resource: name of the resource, as nodes offer it.
        product: product label of the nodes; None for any.
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
        jobs: namespace of Argo's workflows; None if no heavy job runs there.
        priorities: PriorityClasses that the manifests name.
        team_priorities: PriorityClasses of teams that a model.yaml names.
        policy: name of the admission policy in platform/manifests.
        images: serving runtime → its image; of the runtimes that models need.
        bundles: name of the claim for bundles; empty if they come from the bundle store.
        gpus: GPUs of all models that ask for one.
    """

    models: str
    platform: str
    kserve: str
    jobs: str | None
    priorities: tuple[str, ...]
    team_priorities: tuple[str, ...]
    policy: str
    images: Mapping[str, str]
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
