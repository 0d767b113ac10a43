"""`grpc.health.v1.Health`: whether requests can be answered, for probes that speak gRPC."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.api.grpc_calls import Answer, Call, parsed
from mlplatform.scoring.api.probes import Health
from mlplatform.scoring.protos import health_pb2 as pb

SERVICE: Final = "grpc.health.v1.Health"
WHOLE: Final = ""
"""What a caller names that asks about the server, and not about one of its services."""


def answers(health: Health, services: Collection[str]) -> dict[str, Answer]:
    """Method → what it answers, to anybody.

    Args:
        services: those of this listener, which are all ready or none is.
    """
    known = {WHOLE, SERVICE, *services}

    async def check(request: bytes, call: Call) -> pb.HealthCheckResponse:
        service = parsed(pb.HealthCheckRequest, request).service
        if service not in known:
            raise Problem(404, "unknown-service", f"there is no service {service[:64]!r}")
        try:
            health.check_ready()
        except Problem:
            return pb.HealthCheckResponse(status=pb.HealthCheckResponse.NOT_SERVING)
        return pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVING)

    return {"Check": check}
