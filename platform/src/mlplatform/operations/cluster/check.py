"""What an existing cluster lacks for the platform, and what to do about each of it; pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from mlplatform.operations.cluster import installation
from mlplatform.operations.cluster.finding import (
    APPLY_BASE,
    ClusterRequirements,
    Facts,
    Finding,
    State,
    Unread,
    unread,
)
from mlplatform.operations.cluster.rights import Use

OLDEST: Final = (1, 32)
"""The Kubernetes that KServe 0.20 asks for; the platform's admission policy needs 1.30."""
OLDEST_KSERVE: Final = (0, 20)
"""The one that the platform's services were tried with; it knows deployment mode `Standard`."""
NEEDED_KINDS: Final = {
    "inferenceservices.serving.kserve.io": ("v1beta1", "install KServe in Standard mode"),
    "clusterservingruntimes.serving.kserve.io": ("v1alpha1", "install KServe in Standard mode"),
}
OPTIONAL_KINDS: Final = {
    "httproutes.gateway.networking.k8s.io": ("v1", "raw callers", "install the Gateway API"),
    "scaledobjects.keda.sh": ("v1alpha1", "scaling by queue depth", "install KEDA"),
    "workflows.argoproj.io": (
        "v1alpha1",
        "fits of retrains, scoring of past days",
        "install Argo Workflows",
    ),
}
TEAMS: Final = "make it as platform/manifests/overlays/example/teams.yaml has it"
GIVEN_BY: Final[dict[Use, str]] = {
    "services": (
        "run passes as the ServiceAccount mlplatform/rollouts, or bind its Role to this user"
    ),
    "GPUs": (
        "run passes as the ServiceAccount mlplatform/rollouts, or bind its Role and ClusterRole "
        "mlplatform-capacity to this user"
    ),
    "autoscaling": "as for services; only versions that KEDA scales need it",
    "raw callers": "as for services; only an installation with MLPLATFORM_RAW_GATEWAY needs it",
    "heavy jobs": "run batches as the ServiceAccount mlplatform/batches, or apply argo/access.yaml",
    "addresses": "bind a Role with it to this user; only `up --profile cluster` needs it, not pods",
}


def check(facts: Facts, wanted: ClusterRequirements) -> list[Finding]:
    """Everything that was looked at, in the order in which to mend it."""
    return [
        _kubernetes(facts),
        *_kinds(facts),
        *_controller(facts, wanted),
        _mode(facts, wanted),
        *installation.namespaces(facts),
        *(_present("PriorityClass", name, facts.priorities) for name in wanted.priorities),
        *_teams(facts, wanted),
        _present("admission policy", wanted.policy, facts.policies),
        _runtime(facts, wanted.image),
        _storage(facts),
        *installation.claims(facts, wanted),
        *installation.secrets(facts, wanted),
        *installation.admit(facts),
        *_gpus(facts, wanted),
        *_rights(facts, wanted),
    ]


def _kubernetes(facts: Facts) -> Finding:
    return _at_least("Kubernetes", facts.version, OLDEST)


def _at_least(what: str, seen: str, oldest: tuple[int, int]) -> Finding:
    match = re.match(r"v?(\d+)\.(\d+)", seen)
    wanted = ".".join(map(str, oldest))
    if match is None:
        return Finding(
            "unknown", what, f"{seen!r} is no version", f"see that it is {wanted} or newer"
        )
    if (int(match[1]), int(match[2])) >= oldest:
        return Finding("ok", what, seen)
    return Finding("lacking", what, seen, f"upgrade to {wanted} or newer")


def _kinds(facts: Facts) -> Iterator[Finding]:
    for kind, (version, do) in NEEDED_KINDS.items():
        yield _kind(facts, kind, version, "lacking", do)
    for kind, (version, used_by, do) in OPTIONAL_KINDS.items():
        yield _kind(facts, kind, version, "optional", f"{do}, for {used_by}")


def _kind(facts: Facts, kind: str, version: str, otherwise: State, do: str) -> Finding:
    served = facts.kinds.get(kind, frozenset())
    seen = ", ".join(sorted(served)) or "not there"
    if version in served:
        return Finding("ok", kind, seen)
    return Finding(otherwise, kind, seen, f"{do} ({version} is used)")


def _controller(facts: Facts, wanted: ClusterRequirements) -> Iterator[Finding]:
    what, of = "KServe's controller", "KServe's version"
    oldest = ".".join(map(str, OLDEST_KSERVE))
    see = f"see by hand that it runs and is {oldest} or newer"
    found = facts.controller
    if isinstance(found, Unread):
        yield unread(what, found)
        yield unread(of, found)
    elif found is None:
        seen = f"no deployment {wanted.kserve}/kserve-controller-manager"
        yield Finding("unknown", what, seen, f"name its namespace (--kserve-namespace), or {see}")
        yield Finding("unknown", of, seen, f"name its namespace (--kserve-namespace), or {see}")
    else:
        if found.answering:
            yield Finding("ok", what, f"{found.answering} answering")
        else:
            yield Finding("lacking", what, "no pod of it answers", "see its pods and their logs")
        if found.version is None:
            seen = "neither its image's tag nor its labels say"
            yield Finding("unknown", of, seen, f"see by hand that it is {oldest} or newer")
        else:
            yield _at_least(of, found.version, OLDEST_KSERVE)


def _mode(facts: Facts, wanted: ClusterRequirements) -> Finding:
    what, mode = "KServe's default mode", facts.default_mode
    if isinstance(mode, Unread):
        return unread(what, mode)
    if mode in ("Standard", "RawDeployment"):
        return Finding("ok", what, mode)
    return Finding(
        "optional",
        what,
        mode or f"no configuration {wanted.kserve}/inferenceservice-config",
        "the platform's services name their mode themselves; set deploy.defaultDeploymentMode to "
        "Standard so that others' do not need Knative",
    )


def _present(kind: str, name: str, found: frozenset[str] | Unread, do: str = APPLY_BASE) -> Finding:
    if isinstance(found, Unread):
        return unread(f"{kind} {name}", found)
    if name in found:
        return Finding("ok", f"{kind} {name}", "there")
    return Finding("lacking", f"{kind} {name}", "not there", do)


def _teams(facts: Facts, wanted: ClusterRequirements) -> Iterator[Finding]:
    """A team without a class has pods that are refused, one without a quota has no limit."""
    for name in wanted.team_priorities:
        yield _present("PriorityClass", name, facts.priorities, TEAMS)
        what, quotas = f"quota of PriorityClass {name}", facts.quota_classes
        if isinstance(quotas, Unread):
            yield unread(what, quotas)
        elif name in quotas:
            yield Finding("ok", what, "there")
        else:
            yield Finding("optional", what, f"none in {wanted.models}", TEAMS)


def _runtime(facts: Facts, image: str) -> Finding:
    what, do = "serving runtime", "kubectl apply --server-side -f kserve/runtimes"
    if isinstance(facts.runtime_image, Unread):
        return unread(what, facts.runtime_image)
    if facts.runtime_image is None:
        return Finding("lacking", what, "not there", do)
    if facts.runtime_image.rsplit("/", 1)[-1] != image.rsplit("/", 1)[-1]:
        return Finding("lacking", what, facts.runtime_image, f"{do} (it names {image})")
    return Finding("ok", what, facts.runtime_image)


def _storage(facts: Facts) -> Finding:
    what = "default StorageClass"
    if isinstance(facts.storage_classes, Unread):
        return unread(what, facts.storage_classes)
    default = sorted(name for name, is_default in facts.storage_classes.items() if is_default)
    if default:
        return Finding("ok", what, ", ".join(default))
    seen = ", ".join(sorted(facts.storage_classes)) or "no StorageClass"
    do = "mark one as default, or name one in each claim of your overlay, for the gateway's volume"
    return Finding("optional", what, seen, do)


def _gpus(facts: Facts, wanted: ClusterRequirements) -> Iterator[Finding]:
    if isinstance(facts.gpus, Unread):
        yield unread("GPUs", facts.gpus)
        return
    yield _offered(facts.gpus, facts.gpu_products)
    for gpu in wanted.gpus:
        what = f"GPUs of model {gpu.model}"
        asked = " on ".join(filter(None, (gpu.resource, gpu.product)))
        offered = ", ".join(sorted(facts.gpus)) or "none"
        if not facts.gpus.get(gpu.resource):
            do = f"have a device plugin (GPU operator) offer {gpu.resource}, or change model.yaml"
            yield Finding("lacking", what, f"asks for {asked}; nodes offer {offered}", do)
        elif gpu.product and gpu.product not in facts.gpu_products:
            do = "see that nodes with it are labelled (feature discovery), or change gpu.product"
            products = ", ".join(sorted(facts.gpu_products)) or "no node is labelled"
            yield Finding("lacking", what, f"asks for {asked}; there are: {products}", do)
        else:
            yield Finding("ok", what, asked)


def _offered(gpus: Mapping[str, int], products: frozenset[str]) -> Finding:
    if not gpus:
        do = "install NVIDIA's GPU operator, for models with an accelerator"
        return Finding("optional", "GPUs", "no node offers any", do)
    seen = ", ".join(f"{count} x {name}" for name, count in sorted(gpus.items()))
    if not products:
        do = "install NVIDIA's feature discovery, for models that name a kind of GPU"
        return Finding("optional", "GPUs", f"{seen}, of unlabelled kind", do)
    return Finding("ok", "GPUs", f"{seen}: {', '.join(sorted(products))}")


def _rights(facts: Facts, wanted: ClusterRequirements) -> Iterator[Finding]:
    """By what they are for: what nobody uses here is no lack."""
    needed: dict[Use, bool] = {
        "services": True,
        "GPUs": bool(wanted.gpus),
        "autoscaling": "scaledobjects.keda.sh" in facts.kinds,
        "raw callers": False,
        "heavy jobs": wanted.jobs is not None,
        "addresses": False,
    }
    for use, is_needed in needed.items():
        asked = [right for right in facts.rights if right.use == use]
        missing = sorted(str(right) for right in asked if not facts.rights[right])
        if not asked:
            continue
        if not missing:
            yield Finding("ok", f"rights for {use}", f"all {len(asked)}")
        else:
            state: State = "lacking" if is_needed else "optional"
            yield Finding(
                state, f"rights for {use}", f"may not {', '.join(missing)}", GIVEN_BY[use]
            )
