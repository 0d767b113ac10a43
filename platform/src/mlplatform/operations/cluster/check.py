"""The check of a cluster: what it lacks for the platform, and how to mend each lack; pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from mlplatform.operations.cluster import installation
from mlplatform.operations.cluster.finding import (
    APPLY_BASE,
    CheckFinding,
    ClusterFacts,
    ClusterRequirements,
    State,
    UnreadableObject,
    unreadable_finding,
)
from mlplatform.operations.cluster.rights import Use

OLDEST: Final = (1, 32)
"""The oldest Kubernetes version that KServe 0.20 supports; the platform's admission policy needs
1.30."""
OLDEST_KSERVE: Final = (0, 20)
"""The KServe version that the services were tested with; it has deployment mode `Standard`."""
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


def check(facts: ClusterFacts, wanted: ClusterRequirements) -> list[CheckFinding]:
    """All findings, in the order in which to mend them."""
    return [
        _kubernetes(facts),
        *_kinds(facts),
        *_controller(facts, wanted),
        _mode(facts, wanted),
        *installation.namespaces(facts),
        *(_present("PriorityClass", name, facts.priorities) for name in wanted.priorities),
        *_teams(facts, wanted),
        _present("admission policy", wanted.policy, facts.policies),
        *(_runtime(facts, name, image) for name, image in wanted.images.items()),
        _storage(facts),
        *installation.claims(facts, wanted),
        *installation.secrets(facts, wanted),
        *installation.admit(facts),
        *_gpus(facts, wanted),
        *_rights(facts, wanted),
    ]


def _kubernetes(facts: ClusterFacts) -> CheckFinding:
    return _at_least("Kubernetes", facts.version, OLDEST)


def _at_least(what: str, seen: str, oldest: tuple[int, int]) -> CheckFinding:
    match = re.match(r"v?(\d+)\.(\d+)", seen)
    wanted = ".".join(map(str, oldest))
    if match is None:
        return CheckFinding(
            "unknown", what, f"{seen!r} is not a version", f"see that it is {wanted} or newer"
        )
    if (int(match[1]), int(match[2])) >= oldest:
        return CheckFinding("ok", what, seen)
    return CheckFinding("lacking", what, seen, f"upgrade to {wanted} or newer")


def _kinds(facts: ClusterFacts) -> Iterator[CheckFinding]:
    for kind, (version, do) in NEEDED_KINDS.items():
        yield _kind(facts, kind, version, "lacking", do)
    for kind, (version, used_by, do) in OPTIONAL_KINDS.items():
        yield _kind(facts, kind, version, "optional", f"{do}, for {used_by}")


def _kind(facts: ClusterFacts, kind: str, version: str, otherwise: State, do: str) -> CheckFinding:
    served = facts.kinds.get(kind, frozenset())
    seen = ", ".join(sorted(served)) or "not there"
    if version in served:
        return CheckFinding("ok", kind, seen)
    return CheckFinding(otherwise, kind, seen, f"{do} ({version} is used)")


def _controller(facts: ClusterFacts, wanted: ClusterRequirements) -> Iterator[CheckFinding]:
    what, of = "KServe's controller", "KServe's version"
    oldest = ".".join(map(str, OLDEST_KSERVE))
    see = f"see by hand that it runs and is {oldest} or newer"
    found = facts.controller
    if isinstance(found, UnreadableObject):
        yield unreadable_finding(what, found)
        yield unreadable_finding(of, found)
    elif found is None:
        seen = f"no deployment {wanted.kserve}/kserve-controller-manager"
        yield CheckFinding(
            "unknown", what, seen, f"name its namespace (--kserve-namespace), or {see}"
        )
        yield CheckFinding(
            "unknown", of, seen, f"name its namespace (--kserve-namespace), or {see}"
        )
    else:
        if found.answering:
            yield CheckFinding("ok", what, f"{found.answering} answering")
        else:
            yield CheckFinding(
                "lacking", what, "no pod of it answers", "see its pods and their logs"
            )
        if found.version is None:
            seen = "neither its image's tag nor its labels name a version"
            yield CheckFinding("unknown", of, seen, f"see by hand that it is {oldest} or newer")
        else:
            yield _at_least(of, found.version, OLDEST_KSERVE)


def _mode(facts: ClusterFacts, wanted: ClusterRequirements) -> CheckFinding:
    what, mode = "KServe's default mode", facts.default_mode
    if isinstance(mode, UnreadableObject):
        return unreadable_finding(what, mode)
    if mode in ("Standard", "RawDeployment"):
        return CheckFinding("ok", what, mode)
    return CheckFinding(
        "optional",
        what,
        mode or f"no configuration {wanted.kserve}/inferenceservice-config",
        "the platform's services name their mode themselves; set deploy.defaultDeploymentMode to "
        "Standard so that others' do not need Knative",
    )


def _present(
    kind: str, name: str, found: frozenset[str] | UnreadableObject, do: str = APPLY_BASE
) -> CheckFinding:
    if isinstance(found, UnreadableObject):
        return unreadable_finding(f"{kind} {name}", found)
    if name in found:
        return CheckFinding("ok", f"{kind} {name}", "there")
    return CheckFinding("lacking", f"{kind} {name}", "not there", do)


def _teams(facts: ClusterFacts, wanted: ClusterRequirements) -> Iterator[CheckFinding]:
    """Findings on teams: without its PriorityClass a team's pods are refused, without a quota they
    have no limit."""
    for name in wanted.team_priorities:
        yield _present("PriorityClass", name, facts.priorities, TEAMS)
        what, quotas = f"quota of PriorityClass {name}", facts.quota_classes
        if isinstance(quotas, UnreadableObject):
            yield unreadable_finding(what, quotas)
        elif name in quotas:
            yield CheckFinding("ok", what, "there")
        else:
            yield CheckFinding("optional", what, f"none in {wanted.models}", TEAMS)


def _runtime(facts: ClusterFacts, name: str, image: str) -> CheckFinding:
    what, do = f"serving runtime {name}", "kubectl apply --server-side -f kserve/runtimes"
    found = facts.runtimes.get(name)
    if isinstance(found, UnreadableObject):
        return unreadable_finding(what, found)
    if found is None:
        return CheckFinding("lacking", what, "not there", do)
    if found.rsplit("/", 1)[-1] != image.rsplit("/", 1)[-1]:
        return CheckFinding("lacking", what, found, f"{do} (it names {image})")
    return CheckFinding("ok", what, found)


def _storage(facts: ClusterFacts) -> CheckFinding:
    what = "default StorageClass"
    if isinstance(facts.storage_classes, UnreadableObject):
        return unreadable_finding(what, facts.storage_classes)
    default = sorted(name for name, is_default in facts.storage_classes.items() if is_default)
    if default:
        return CheckFinding("ok", what, ", ".join(default))
    seen = ", ".join(sorted(facts.storage_classes)) or "no StorageClass"
    do = "mark one as default, or name one in each claim of your overlay, for the gateway's volume"
    return CheckFinding("optional", what, seen, do)


def _gpus(facts: ClusterFacts, wanted: ClusterRequirements) -> Iterator[CheckFinding]:
    if isinstance(facts.gpus, UnreadableObject):
        yield unreadable_finding("GPUs", facts.gpus)
        return
    yield _offered(facts.gpus, facts.gpu_products)
    for gpu in wanted.gpus:
        what = f"GPUs of model {gpu.model}"
        asked = " on ".join(filter(None, (gpu.resource, gpu.product)))
        offered = ", ".join(sorted(facts.gpus)) or "none"
        if not facts.gpus.get(gpu.resource):
            do = f"have a device plugin (GPU operator) offer {gpu.resource}, or change model.yaml"
            yield CheckFinding("lacking", what, f"asks for {asked}; nodes offer {offered}", do)
        elif gpu.product and gpu.product not in facts.gpu_products:
            do = "see that nodes with it are labelled (feature discovery), or change gpu.product"
            products = ", ".join(sorted(facts.gpu_products)) or "none"
            yield CheckFinding(
                "lacking", what, f"asks for {asked}; node labels name: {products}", do
            )
        else:
            yield CheckFinding("ok", what, asked)


def _offered(gpus: Mapping[str, int], products: frozenset[str]) -> CheckFinding:
    if not gpus:
        do = "install NVIDIA's GPU operator, for models with an accelerator"
        return CheckFinding("optional", "GPUs", "no node offers any", do)
    seen = ", ".join(f"{count} x {name}" for name, count in sorted(gpus.items()))
    if not products:
        do = "install NVIDIA's feature discovery, for models that name a kind of GPU"
        return CheckFinding("optional", "GPUs", f"{seen}, of unlabelled kind", do)
    return CheckFinding("ok", "GPUs", f"{seen}: {', '.join(sorted(products))}")


def _rights(facts: ClusterFacts, wanted: ClusterRequirements) -> Iterator[CheckFinding]:
    """Findings on rights, grouped by use: a missing right that nothing here uses is no lack."""
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
            yield CheckFinding("ok", f"rights for {use}", f"all {len(asked)}")
        else:
            state: State = "lacking" if is_needed else "optional"
            yield CheckFinding(
                state, f"rights for {use}", f"may not {', '.join(missing)}", GIVEN_BY[use]
            )
