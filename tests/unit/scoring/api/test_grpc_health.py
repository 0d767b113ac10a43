"""gRPC's health service: what a probe is told while requests can and cannot be answered."""

from __future__ import annotations

from typing import Any, cast

import pytest

from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.api import grpc_health
from mlplatform.scoring.api.grpc_server import SERVICES
from mlplatform.scoring.api.probes import Health
from mlplatform.scoring.protos import health_pb2 as pb

STATUS = pb.HealthCheckResponse
NO_CALL = cast("Any", None)  # who asks does not matter


async def told(health: Health, service: str) -> int:
    asked = pb.HealthCheckRequest(service=service).SerializeToString()
    answer: Any = await grpc_health.answers(health, SERVICES)["Check"](asked, NO_CALL)
    return int(answer.status)


@pytest.mark.parametrize("service", ["", grpc_health.SERVICE, *SERVICES])
@pytest.mark.parametrize(
    ("alive", "ready", "status"),
    [
        (True, True, STATUS.SERVING),
        (True, False, STATUS.NOT_SERVING),
        (False, True, STATUS.NOT_SERVING),
    ],
)
async def test_a_service_serves_once_requests_can_be_answered(
    service: str, alive: bool, ready: bool, status: int
) -> None:
    assert await told(Health(lambda: alive, lambda: ready), service) == status


async def test_a_service_that_there_is_not_is_not_found() -> None:
    with pytest.raises(Problem) as refused:
        await told(Health(lambda: True, lambda: True), "mlplatform.scoring.v9.Scoring")
    assert refused.value.status == 404


async def test_what_is_no_request_is_refused() -> None:
    with pytest.raises(Problem) as refused:
        await grpc_health.answers(Health(lambda: True, lambda: True), ())["Check"](b"\xff", NO_CALL)
    assert refused.value.status == 400
