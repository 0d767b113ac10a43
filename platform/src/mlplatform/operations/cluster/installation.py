"""Checks of the platform's namespaces: labels, claims, Secrets; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from mlplatform.operations.cluster.finding import (
    APPLY_BASE,
    APPLY_WORKLOADS,
    CheckFinding,
    ClusterFacts,
    ClusterRequirements,
    UnreadableObject,
    VolumeClaim,
    unreadable_finding,
)

POD_SECURITY: Final = "pod-security.kubernetes.io/enforce"
LET_IN: Final[Mapping[str, str]] = {
    "mlplatform/calls-gateway": "nobody may call the gateway: label the applications' namespaces",
    "mlplatform/state": (
        "no policy lets pods reach servers in this cluster: label the namespaces of PostgreSQL, "
        "Redis, Kafka and S3, or patch addresses outside it into the NetworkPolicies"
    ),
    "mlplatform/scrapes": "no Prometheus may scrape: label its namespace",
    "mlplatform/telemetry": "spans and metrics reach no collector: label its namespace",
    "mlplatform/operators": "nobody reaches page, Prefect and MLflow: label the proxy's namespace",
    "mlplatform/raw-callers": "no Gateway reaches predictors: label its namespace",
}
"""Namespace labels, each `"true"`, by which NetworkPolicies admit namespaces → the effect of a
missing one."""
SECRETS: Final[Mapping[str, frozenset[str]]] = {
    "postgres": frozenset({"password"}),
    "redis": frozenset({"password"}),
    "kafka": frozenset({"password"}),
    "mlflow": frozenset({"token", "postgres-password"}),
    "prefect": frozenset({"database-url", "auth"}),
    "prefect-reader": frozenset({"auth"}),
    "exporter": frozenset({"token"}),
    "page": frozenset({"token"}),
    "worker": frozenset({"token"}),
    "s3": frozenset({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}),
}
"""Secrets that docs/cluster.md lists → their keys."""
OPTIONAL: Final[Mapping[str, str]] = {
    "s3": "where accounts have no identity of their own",
    "kafka": "where the brokers ask for a user",
    "prefect-reader": "for the page to show schedules and runs",
}
"""Secrets that an installation may leave out → the installations that need them."""
READ_BY_MANY: Final = frozenset({"ReadWriteMany", "ReadOnlyMany"})
WRITTEN_BY_MANY: Final = frozenset({"ReadWriteMany"})


def namespaces(facts: ClusterFacts) -> Iterator[CheckFinding]:
    """Findings on the namespaces: each exists and admits restricted pods only."""
    for name, labels in facts.namespaces.items():
        what = f"namespace {name}"
        match labels:
            case UnreadableObject():
                yield unreadable_finding(what, labels)
            case None:
                yield CheckFinding("lacking", what, "not there", APPLY_BASE)
            case _ if labels.get(POD_SECURITY) == "restricted":
                yield CheckFinding("ok", what, "restricted")
            case _:
                level = labels.get(POD_SECURITY) or "nothing"
                yield CheckFinding("lacking", what, f"Pod Security enforces {level}", APPLY_BASE)


def admit(facts: ClusterFacts) -> Iterator[CheckFinding]:
    """Findings on labels that admit namespaces; only the bank knows which of them it needs."""
    for label, lacks in LET_IN.items():
        what = f"namespaces labelled {label}"
        if isinstance(facts.labelled, UnreadableObject):
            yield unreadable_finding(what, facts.labelled)
        elif found := facts.labelled.get(label, frozenset()):
            yield CheckFinding("ok", what, ", ".join(sorted(found)))
        else:
            yield CheckFinding("optional", what, "none", lacks)


def claims(facts: ClusterFacts, wanted: ClusterRequirements) -> Iterator[CheckFinding]:
    """Findings on the claims of the bundles' volume: predictors read it, passes write it."""
    if not wanted.bundles:
        yield CheckFinding("ok", "claims for bundles", "none is needed: they come from the store")
        return
    first = _claim(facts, wanted.models, wanted.bundles, READ_BY_MANY)
    yield first
    second = _claim(facts, wanted.platform, wanted.bundles, WRITTEN_BY_MANY)
    yield _of_workloads(second, facts)


def secrets(facts: ClusterFacts, wanted: ClusterRequirements) -> Iterator[CheckFinding]:
    """Findings on the Secrets of the platform's processes and on their keys; no value is read."""
    for name, keys in SECRETS.items():
        what = f"Secret {wanted.platform}/{name}"
        found = facts.secrets.get(name)
        listed = ", ".join(sorted(keys))
        if isinstance(found, UnreadableObject):
            yield unreadable_finding(what, found)
        elif found is None and name in OPTIONAL:
            do = f"make it with {listed}, {OPTIONAL[name]}"
            yield CheckFinding("optional", what, "not there", do)
        elif found is None:
            lacking = CheckFinding("lacking", what, "not there", f"make it with {listed}")
            yield _of_workloads(lacking, facts)
        elif missing := sorted(keys - found):
            seen = f"has {', '.join(sorted(found)) or 'no key'}"
            yield _of_workloads(
                CheckFinding("lacking", what, seen, f"add {', '.join(missing)}"), facts
            )
        else:
            yield CheckFinding("ok", what, f"has {listed}")


def _of_workloads(finding: CheckFinding, facts: ClusterFacts) -> CheckFinding:
    """The finding, `optional` instead of `lacking` while the platform's workloads are not
    installed."""
    if finding.state != "lacking" or facts.workloads is True:
        return finding
    return CheckFinding(
        "optional", finding.what, finding.seen, f"{finding.do}; before {APPLY_WORKLOADS}"
    )


def _claim(facts: ClusterFacts, namespace: str, name: str, modes: frozenset[str]) -> CheckFinding:
    what, found = f"claim {namespace}/{name}", facts.claims.get((namespace, name))
    wanted = " or ".join(sorted(modes))
    if isinstance(found, UnreadableObject):
        return unreadable_finding(what, found)
    if found is None:
        do = f"make a PersistentVolumeClaim {name} of mode {wanted}, for bundles"
        return CheckFinding("lacking", what, "not there", do)
    seen = f"{found.phase}, {', '.join(sorted(found.modes)) or 'no mode'}"
    if not found.modes & modes:
        return CheckFinding(
            "lacking", what, seen, f"make it anew with {wanted}: many nodes mount it"
        )
    if found.phase == "Bound":
        return CheckFinding("ok", what, seen)
    return CheckFinding("lacking", what, seen, _why_unbound(facts, found, name, namespace))


def _why_unbound(facts: ClusterFacts, claim: VolumeClaim, name: str, namespace: str) -> str:
    classes = facts.storage_classes
    if (
        claim.storage_class
        and not isinstance(classes, UnreadableObject)
        and claim.storage_class not in classes
    ):
        return f"make StorageClass {claim.storage_class}, which it names, or a volume for it"
    return f"see why: kubectl describe pvc {name} --namespace {namespace}"
