"""What an existing cluster lacks for the platform, and what to do about each of it; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

State = Literal["ok", "lacking", "optional"]
"""`optional` is lacking too, but only what uses it does without."""

OLDEST: Final = (1, 32)
"""The Kubernetes that KServe 0.20 asks for; the platform's admission policy needs 1.30."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Args:
        what: it is, in a few words.
        seen: what is there.
        do: what mends it; empty where it is ok.
    """

    state: State
    what: str
    seen: str
    do: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was read from a cluster.

    Args:
        version: of the API server, as `v1.34.4`.
        kinds: definitions that are served: `<plural>.<group>` → versions.
        controller_replicas: of KServe's controller that answer; None where there is no such
            deployment, which says nothing if it runs elsewhere.
        default_mode: KServe's own default; None without its configuration.
        runtime_image: of the platform's serving runtime; None where it is not applied.
        namespace_labels: of the models' namespace; None where there is none.
        priorities: names of PriorityClasses.
        policies: names of ValidatingAdmissionPolicies that are bound.
        storage_classes: name → whether it is the default.
        gpus: resource → how many all nodes have together.
        gpu_products: labels of the nodes that have them.
        rights: right, in words → whether this user has it.
    """

    version: str
    kinds: Mapping[str, frozenset[str]]
    controller_replicas: int | None
    default_mode: str | None
    runtime_image: str | None
    namespace: str
    namespace_labels: Mapping[str, str] | None
    priorities: frozenset[str]
    policies: frozenset[str]
    storage_classes: Mapping[str, bool]
    gpus: Mapping[str, int]
    gpu_products: frozenset[str]
    rights: Mapping[str, bool]


APPLY_BASE: Final = "kubectl apply -k platform/manifests/base"
NEEDED_KINDS: Final = {
    "inferenceservices.serving.kserve.io": ("v1beta1", "install KServe in Standard mode"),
    "clusterservingruntimes.serving.kserve.io": ("v1alpha1", "install KServe in Standard mode"),
}
OPTIONAL_KINDS: Final = {
    "httproutes.gateway.networking.k8s.io": ("v1", "raw callers", "install the Gateway API"),
    "scaledobjects.keda.sh": ("v1alpha1", "scaling by queue depth", "install KEDA"),
    "workflows.argoproj.io": ("v1alpha1", "scoring of past days", "install Argo Workflows"),
}


def check(facts: Facts, priorities: Sequence[str], policy: str, image: str) -> list[Finding]:
    """Everything that was looked at, in the order in which to mend it.

    Args:
        priorities: PriorityClasses that manifests name.
        policy: the admission policy of platform/manifests.
        image: of the serving runtime that this version of the platform ships.
    """
    return [
        _version(facts),
        *_kinds(facts),
        _controller(facts),
        _mode(facts),
        _namespace(facts),
        *(_present("PriorityClass", name, facts.priorities) for name in priorities),
        _present("admission policy", policy, facts.policies),
        _runtime(facts, image),
        _storage(facts),
        _gpus(facts),
        *_rights(facts),
    ]


def _version(facts: Facts) -> Finding:
    match = re.match(r"v?(\d+)\.(\d+)", facts.version)
    wanted = ".".join(map(str, OLDEST))
    if match is not None and (int(match[1]), int(match[2])) >= OLDEST:
        return Finding("ok", "Kubernetes", facts.version)
    return Finding("lacking", "Kubernetes", facts.version, f"upgrade to {wanted} or newer")


def _kinds(facts: Facts) -> list[Finding]:
    found = []
    for kind, (version, do) in NEEDED_KINDS.items():
        found.append(_kind(facts, kind, version, "lacking", do))
    for kind, (version, used_by, do) in OPTIONAL_KINDS.items():
        found.append(_kind(facts, kind, version, "optional", f"{do}, for {used_by}"))
    return found


def _kind(facts: Facts, kind: str, version: str, otherwise: State, do: str) -> Finding:
    served = facts.kinds.get(kind, frozenset())
    seen = ", ".join(sorted(served)) or "not there"
    if version in served:
        return Finding("ok", kind, seen)
    return Finding(otherwise, kind, seen, f"{do} ({version} is used)")


def _controller(facts: Facts) -> Finding:
    what = "KServe's controller"
    match facts.controller_replicas:
        case None:
            return Finding(
                "optional",
                what,
                "no deployment kserve/kserve-controller-manager",
                "see that it runs",
            )
        case 0:
            return Finding("lacking", what, "no pod of it answers", "see its pods and their logs")
        case answering:
            return Finding("ok", what, f"{answering} answering")


def _mode(facts: Facts) -> Finding:
    what = "KServe's default mode"
    if facts.default_mode in ("Standard", "RawDeployment"):
        return Finding("ok", what, facts.default_mode)
    return Finding(
        "optional",
        what,
        facts.default_mode or "no configuration kserve/inferenceservice-config",
        "the platform's services name their mode themselves; set deploy.defaultDeploymentMode to "
        "Standard so that others' do not need Knative",
    )


def _namespace(facts: Facts) -> Finding:
    what = f"namespace {facts.namespace}"
    if facts.namespace_labels is None:
        return Finding("lacking", what, "not there", APPLY_BASE)
    level = facts.namespace_labels.get("pod-security.kubernetes.io/enforce")
    if level == "restricted":
        return Finding("ok", what, "restricted")
    return Finding("lacking", what, f"Pod Security enforces {level or 'nothing'}", APPLY_BASE)


def _present(kind: str, name: str, found: frozenset[str]) -> Finding:
    if name in found:
        return Finding("ok", f"{kind} {name}", "there")
    return Finding("lacking", f"{kind} {name}", "not there", APPLY_BASE)


def _runtime(facts: Facts, image: str) -> Finding:
    what, do = "serving runtime", "kubectl apply --server-side -f kserve/runtimes"
    if facts.runtime_image is None:
        return Finding("lacking", what, "not there", do)
    if facts.runtime_image.rsplit("/", 1)[-1] != image.rsplit("/", 1)[-1]:
        return Finding("lacking", what, facts.runtime_image, f"{do} (it names {image})")
    return Finding("ok", what, facts.runtime_image)


def _storage(facts: Facts) -> Finding:
    what = "default StorageClass"
    default = sorted(name for name, is_default in facts.storage_classes.items() if is_default)
    if default:
        return Finding("ok", what, ", ".join(default))
    seen = ", ".join(sorted(facts.storage_classes)) or "no StorageClass"
    return Finding("optional", what, seen, "mark one as default, for the gateways' volumes")


def _gpus(facts: Facts) -> Finding:
    if not facts.gpus:
        do = "install NVIDIA's GPU operator, for models with an accelerator"
        return Finding("optional", "GPUs", "no node offers any", do)
    seen = ", ".join(f"{count} x {name}" for name, count in sorted(facts.gpus.items()))
    if not facts.gpu_products:
        do = "install NVIDIA's feature discovery, for models that name a kind of GPU"
        return Finding("optional", "GPUs", f"{seen}, of unlabelled kind", do)
    return Finding("ok", "GPUs", f"{seen}: {', '.join(sorted(facts.gpu_products))}")


def _rights(facts: Facts) -> list[Finding]:
    missing = sorted(right for right, has in facts.rights.items() if not has)
    if not missing:
        return [Finding("ok", "rights of this user", f"all {len(facts.rights)} that passes need")]
    do = "run passes as the ServiceAccount mlplatform/rollouts, or bind the Role to this user"
    return [Finding("lacking", "right", f"may not {right}", do) for right in missing]
