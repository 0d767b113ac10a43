"""What is said about a service on KServe, from the objects that a cluster holds about it."""

from __future__ import annotations

from typing import Any

import pytest

from mlplatform.rollouts.serving.diagnosis import diagnose

NAME = "fraud-v7-01234567"


def condition(kind: str, status: str, reason: str = "", message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def service(**status: Any) -> dict[str, Any]:
    ready = {"conditions": [condition("Ready", "True")]}
    return {"metadata": {"name": NAME, "generation": 4}, "status": {**ready, **status}}


def deployment(available: int = 2, **changes: Any) -> dict[str, Any]:
    status = {
        "observedGeneration": 1,
        "updatedReplicas": 2,
        "availableReplicas": available,
        "conditions": [condition("Available", str(available == 2))],
    }
    return {
        "metadata": {"generation": 1},
        "spec": {"replicas": 2},
        "status": {**status, **changes},
    }


def pod(
    state: dict[str, Any], *, last: dict[str, Any] | None = None, **status: Any
) -> dict[str, Any]:
    container = {
        "name": "kserve-container",
        "image": "bank/predictor:1",
        "ready": False,
        "started": False,
        "restartCount": 0 if last is None else 3,
        "state": state,
        "lastState": {} if last is None else {"terminated": last},
        **status,
    }
    spec = {
        "name": "kserve-container",
        "resources": {"limits": {"memory": "512Mi"}},
        "startupProbe": {"failureThreshold": 45, "periodSeconds": 2},
    }
    return {
        "metadata": {},
        "spec": {"containers": [spec]},
        "status": {
            "conditions": [condition("Ready", "False")],
            "containerStatuses": [container],
        },
    }


def lived(seconds: int) -> dict[str, str]:
    minutes, rest = divmod(seconds, 60)
    return {
        "startedAt": "2026-01-01T00:00:00Z",
        "finishedAt": f"2026-01-01T{minutes // 60:02}:{minutes % 60:02}:{rest:02}Z",
    }


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def unscheduled(message: str) -> dict[str, Any]:
    return {
        "metadata": {},
        "spec": {"containers": []},
        "status": {"conditions": [condition("PodScheduled", "False", "Unschedulable", message)]},
    }


RUNNING = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
BACKING_OFF = waiting("CrashLoopBackOff", "back-off 40s restarting failed container")


def test_a_service_whose_pods_answer_is_ready_and_has_no_reason() -> None:
    status = diagnose(NAME, service(observedGeneration=1), deployment(), [])

    assert (status.ready, status.reason, status.failed) == (True, "", False)


@pytest.mark.parametrize(
    ("status", "why"),
    [
        pytest.param(
            {"replicas": 1, "updatedReplicas": 1, "availableReplicas": 0},
            "no node takes it: Unschedulable: 0/3 nodes are available: 3 Insufficient gpu.",
            id="beside GPUs, where one of one may be away",
        ),
        pytest.param(
            {"replicas": 2, "updatedReplicas": 1, "availableReplicas": 1},
            "no node takes it: Unschedulable: 0/3 nodes are available: 3 Insufficient gpu.",
            id="the pod that answers is of a former template",
        ),
    ],
)
def test_a_deployment_that_calls_itself_available_without_a_pod_is_not_ready(
    status: dict[str, int], why: str
) -> None:
    found = deployment(**status, conditions=[condition("Available", "True")])
    found["spec"]["replicas"] = 1
    pending = unscheduled("0/3 nodes are available: 3 Insufficient gpu.")

    told = diagnose(NAME, service(), found, [pending])

    assert (told.ready, told.reason) == (False, why)


@pytest.mark.parametrize(
    ("why", "found", "failed"),
    [
        pytest.param(
            "no node takes it: Unschedulable: 0/3 nodes are available: 3 Insufficient gpu.",
            unscheduled("0/3 nodes are available: 3 Insufficient gpu."),
            False,
            id="no free GPU: a node may still come",
        ),
        pytest.param(
            "image bank/predictor:1 can't be had: ImagePullBackOff: not found",
            pod(waiting("ImagePullBackOff", "not found")),
            True,
            id="no such image",
        ),
        pytest.param(
            "took more than its memory limit of 512Mi and was killed",
            pod(BACKING_OFF, last={"exitCode": 137, "reason": "OOMKilled"}),
            True,
            id="too little memory, again and again",
        ),
        pytest.param(
            "took more than its memory limit of 512Mi and was killed",
            pod(RUNNING, last={"exitCode": 137, "reason": "OOMKilled"}, started=True),
            False,
            id="too little memory, once",
        ),
        pytest.param(
            "ended by itself: golden row 2 scored 0.4, expected 0.5",
            pod(
                BACKING_OFF,
                last={"exitCode": 1, "message": "golden row 2 scored 0.4, expected 0.5\n"},
            ),
            True,
            id="a failed self-test, in its own words",
        ),
        pytest.param(
            "was killed because it gave no answer within 90 s of its start",
            pod(BACKING_OFF, last={"exitCode": 0, "reason": "Completed", **lived(seconds=100)}),
            True,
            id="a load past its deadline, after which it ended in good order",
        ),
        pytest.param(
            "ended with exit code 137 Error",
            pod(RUNNING, last={"exitCode": 137, "reason": "Error", **lived(seconds=4000)}),
            False,
            id="killed long after it had loaded",
        ),
        pytest.param(
            "its container can't be made: CreateContainerConfigError: failed to prepare subPath",
            pod(waiting("CreateContainerConfigError", "failed to prepare subPath")),
            True,
            id="no such bundle on the volume",
        ),
        pytest.param("loads its model", pod(RUNNING), False, id="still loading"),
        pytest.param(
            "runs, but gives no answer that it is ready",
            pod(RUNNING, started=True),
            False,
            id="frozen",
        ),
        pytest.param(
            "its container is being made", pod(waiting("ContainerCreating")), False, id="starting"
        ),
    ],
)
def test_a_pod_that_is_not_ready_says_why(why: str, found: dict[str, Any], failed: bool) -> None:
    status = diagnose(NAME, service(), deployment(available=0), [found])

    assert (why, False, failed) == (status.reason, status.ready, status.failed)


def test_a_failure_is_told_before_what_may_still_come() -> None:
    pods = [pod(RUNNING), pod(waiting("ErrImagePull", "not found"))]

    assert diagnose(NAME, service(), deployment(available=0), pods).failed


def test_a_quota_that_refuses_pods_is_told_with_its_numbers() -> None:
    message = "exceeded quota: gpus, requested: nvidia.com/gpu=1, used: 2, limited: 2"
    refused = condition("ReplicaFailure", "True", "FailedCreate", message)

    status = diagnose(NAME, service(), deployment(0, conditions=[refused]), [])

    assert (status.failed, status.reason) == (
        True,
        f"its pods are refused: FailedCreate: {message}",
    )


def test_a_runtime_that_kserve_does_not_find_is_told_before_there_is_a_deployment() -> None:
    model = {
        "transitionStatus": "InvalidSpec",
        "lastFailureInfo": {"reason": "NoSupportingRuntime", "message": "no runtime for it"},
    }

    status = diagnose(NAME, service(modelStatus=model), None, [])

    assert status.reason == "KServe refuses it: NoSupportingRuntime: no runtime for it"
    assert status.failed


def test_a_former_failure_that_kserve_still_shows_does_not_count() -> None:
    model = {
        "transitionStatus": "InProgress",
        "lastFailureInfo": {"reason": "NoSupportingRuntime", "message": "no runtime for it"},
    }

    assert diagnose(NAME, service(modelStatus=model), deployment(), []).ready


def test_without_a_deployment_the_controller_is_waited_for() -> None:
    status = diagnose(NAME, {"metadata": {"name": NAME}}, None, [])

    assert status.reason == "waits for the KServe controller to make its deployment"


def test_pods_of_a_former_template_do_not_count() -> None:
    changed = deployment()
    changed["metadata"]["generation"] = 2

    assert not diagnose(NAME, service(), changed, []).ready


def test_the_generation_that_kserve_writes_is_not_taken_for_the_services_own() -> None:
    assert diagnose(NAME, service(observedGeneration=99), deployment(), []).ready
    assert not diagnose(NAME, service(observedGeneration=4), deployment(available=1), []).ready


def test_restarts_are_those_of_the_worst_pod() -> None:
    pods = [pod(RUNNING), pod(RUNNING, last={"exitCode": 1}, started=True)]

    assert diagnose(NAME, service(), deployment(), pods).restarts == 3
