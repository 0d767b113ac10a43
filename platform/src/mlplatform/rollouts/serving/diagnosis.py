"""The status of a service on KServe and why it is not ready: from its objects to words for a
person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from mlplatform.rollouts.serving.plane import ServiceStatus

Object = Mapping[str, Any]

UNPULLABLE: Final = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
    }
)
UNCREATABLE: Final = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
)
INVALID: Final = frozenset({"InvalidSpec", "BlockedByFailedLoad"})
MESSAGE_CHARACTERS: Final = 400
GRACE_S: Final = 40
"""Seconds after the startup probe's deadline within which a container's end counts as killed for
loading too long: it may still use its pod's 30 s."""


@dataclass(frozen=True, slots=True)
class ServiceFinding:
    """One reason why a service is not ready; `failed` if waiting alone does not mend it."""

    reason: str
    failed: bool = False


def diagnose(
    name: str, service: Object, deployment: Object | None, pods: Sequence[Object]
) -> ServiceStatus:
    """The status of a service, from the objects that the API server has of it.

    `status.observedGeneration` of an InferenceService is not read: KServe writes its Deployment's
    generation there, which says nothing about the InferenceService.

    Args:
        deployment: Deployment of the predictor; None if KServe has not created it yet.
        pods: pods of the predictor.
    """
    restarts = max((_restarts(pod) for pod in pods), default=0)
    findings = list(_findings(service, deployment, pods))
    if not findings:
        return ServiceStatus(name, ready=True, reason="", restarts=restarts)
    worst = next((f for f in findings if f.failed), findings[0])
    return ServiceStatus(name, False, worst.reason, restarts, failed=worst.failed)


def ready_pods(pods: Sequence[Object]) -> frozenset[tuple[str, int]]:
    """Uid and restart count of each pod that answers; when one of them changes, the pod has loaded
    its model anew."""
    return frozenset(
        (pod["metadata"]["uid"], sum(s["restartCount"] for s in _container_statuses(pod)))
        for pod in pods
        if _is_true(pod, "Ready")
    )


def _findings(
    service: Object, deployment: Object | None, pods: Sequence[Object]
) -> Iterator[ServiceFinding]:
    """The findings about a service, most telling first; none means ready."""
    if service["metadata"].get("deletionTimestamp"):
        yield ServiceFinding("is being removed")
    model = _at(service, "status", "modelStatus") or {}
    if model.get("transitionStatus") in INVALID:
        info = model.get("lastFailureInfo", {})
        yield ServiceFinding(f"KServe refuses it: {_words(info)}", failed=True)
    if deployment is None:
        yield ServiceFinding(_unmade(service))
        return
    yield from _of_deployment(deployment)
    unready = [pod for pod in pods if not _is_true(pod, "Ready")]
    if not _available(deployment) or not _is_true(service, "Ready"):
        for pod in unready:
            yield from _of_pod(pod)
        yield ServiceFinding(_short_of(service, deployment))


def _of_deployment(deployment: Object) -> Iterator[ServiceFinding]:
    for condition in _conditions(deployment):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            yield ServiceFinding(f"its pods are refused: {_words(condition)}", failed=True)
    for condition in _conditions(deployment):
        if condition.get("reason") == "ProgressDeadlineExceeded":
            yield ServiceFinding(
                "its pods were not ready within the deployment's deadline", failed=True
            )


def _of_pod(pod: Object) -> Iterator[ServiceFinding]:
    for condition in _conditions(pod):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield ServiceFinding(f"no node takes it: {_words(condition)}")
    statuses = [
        *_at_list(pod, "status", "initContainerStatuses"),
        *_container_statuses(pod),
    ]
    for status in statuses:
        yield from _of_container(pod, status)


def _of_container(pod: Object, status: Object) -> Iterator[ServiceFinding]:
    if status.get("ready"):
        return
    waiting = _at(status, "state", "waiting") or {}
    why = waiting.get("reason", "")
    if why in UNPULLABLE:
        yield ServiceFinding(
            f"image {status['image']} can't be had: {_words(waiting)}", failed=True
        )
    elif why in UNCREATABLE:
        yield ServiceFinding(f"its container can't be made: {_words(waiting)}", failed=True)
    ended = _at(status, "lastState", "terminated") or _at(status, "state", "terminated")
    if ended:
        # After the first end Kubernetes restarts it at once; that end may be chance.
        yield ServiceFinding(_death(pod, status, ended), failed=why == "CrashLoopBackOff")
    if why in {"ContainerCreating", "PodInitializing"}:
        yield ServiceFinding("its container is being made")
    if _at(status, "state", "running"):
        loading = not status.get("started") and status["restartCount"] == 0
        yield ServiceFinding(
            "loads its model" if loading else "runs, but gives no answer that it is ready"
        )


def _death(pod: Object, status: Object, ended: Object) -> str:
    container = _container(pod, status["name"])
    message = (ended.get("message") or "").strip()
    if ended.get("reason") == "OOMKilled":
        limit = _at(container, "resources", "limits", "memory")
        return f"took more than its memory limit of {limit} and was killed"
    if message:
        return f"ended by itself: {message[-MESSAGE_CHARACTERS:]}"
    deadline_s = _load_deadline_s(container)
    if deadline_s is not None and deadline_s <= _lifetime_s(ended) <= deadline_s + GRACE_S:
        return f"was killed because it gave no answer within {deadline_s} s of its start"
    return f"ended with exit code {ended['exitCode']} {ended.get('reason', '')}".rstrip()


def _load_deadline_s(container: Object) -> int | None:
    """The loading time in seconds that the startup probe allows. Kubernetes does not report that
    its probe killed a container."""
    probe = container.get("startupProbe")
    if probe is None:
        return None
    return int(probe.get("failureThreshold", 3) * probe.get("periodSeconds", 10))


def _lifetime_s(ended: Object) -> float:
    started, finished = ended.get("startedAt"), ended.get("finishedAt")
    if not started or not finished:
        return 0
    lived = datetime.fromisoformat(finished) - datetime.fromisoformat(started)
    return lived.total_seconds() + 1  # both times are in whole seconds


def _unmade(service: Object) -> str:
    problems = [
        _words(c) for c in _conditions(service) if c["status"] == "False" and c.get("message")
    ]
    return problems[0] if problems else "waits for the KServe controller to make its deployment"


def _short_of(service: Object, deployment: Object) -> str:
    wanted = _at(deployment, "spec", "replicas")
    have = _at(deployment, "status", "availableReplicas") or 0
    if not _available(deployment):
        return f"{have} of {wanted} pods are available"
    problems = [
        _words(c) for c in _conditions(service) if c["status"] == "False" and c.get("message")
    ]
    return problems[0] if problems else "KServe does not call it ready yet"


def _available(deployment: Object) -> bool:
    """Whether enough pods of the present template answer; pods of a former template do not count.

    A Deployment of one pod that may be replaced without a spare (maxUnavailable 1, as with GPUs)
    reports itself available while it has no pod. So at least one pod must answer, whatever it
    reports.
    """
    current = _at(deployment, "status", "observedGeneration")
    if current != deployment["metadata"]["generation"]:
        return False
    updated = _at(deployment, "status", "updatedReplicas") or 0
    former = (_at(deployment, "status", "replicas") or updated) - updated
    answering = (_at(deployment, "status", "availableReplicas") or 0) - former
    return (
        updated >= _at(deployment, "spec", "replicas")
        and answering > 0
        and _is_true(deployment, "Available")
    )


def _restarts(pod: Object) -> int:
    return max((s["restartCount"] for s in _container_statuses(pod)), default=0)


def _container_statuses(pod: Object) -> list[Any]:
    return _at_list(pod, "status", "containerStatuses")


def _container(pod: Object, name: str) -> Object:
    spec = pod["spec"]
    found = [c for c in (*spec["containers"], *spec.get("initContainers", ())) if c["name"] == name]
    return found[0] if found else {}


def _is_true(thing: Object, condition: str) -> bool:
    return any(c["type"] == condition and c["status"] == "True" for c in _conditions(thing))


def _conditions(thing: Object) -> list[Any]:
    return _at_list(thing, "status", "conditions")


def _words(condition: Object) -> str:
    message = str(condition.get("message") or "").strip()
    reason = str(condition.get("reason") or "").strip()
    return ": ".join(part for part in (reason, message[:MESSAGE_CHARACTERS]) if part)


def _at_list(thing: Object, *keys: str) -> list[Any]:
    found = _at(thing, *keys)
    return found if isinstance(found, list) else []


def _at(thing: Any, *keys: str) -> Any:
    for key in keys:
        thing = thing.get(key) if isinstance(thing, Mapping) else None
    return thing
