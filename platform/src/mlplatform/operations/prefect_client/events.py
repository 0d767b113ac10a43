"""Requests of a drift check as events of Prefect, which start a retrain or notify a person.

An event's id is made from its request, so an event that is sent twice counts once.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final, assert_never

from mlplatform.rollouts.drift.execute import PersonRequest, RetrainRequest
from mlplatform.runtime.times import iso_text

RETRAIN_EVENT: Final = "mlplatform.drift.retrain"
PAGE_EVENT: Final = "mlplatform.drift.page"
NAMESPACE: Final = uuid.UUID("6b0f2ad5-7d7c-5d0e-9a3f-0f6a5b1f7c11")


def resource(model: str) -> str:
    """The id of a model as a resource of Prefect's events."""
    return f"mlplatform.model.{model}"


def event_of(request: RetrainRequest | PersonRequest, wall_ms: int) -> dict[str, Any]:
    """The event of a request, in the form of Prefect's API."""
    match request:
        case RetrainRequest():
            return _event(
                *(RETRAIN_EVENT, request, f"retrain/{request.claim}", wall_ms),
                {"claim": request.claim, "as_of": iso_text(request.as_of_ms)},
            )
        case PersonRequest():
            return _event(PAGE_EVENT, request, f"page/{request.change}", wall_ms, {})
        case _:
            assert_never(request)


def _event(
    name: str,
    request: RetrainRequest | PersonRequest,
    key: str,
    wall_ms: int,
    payload: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "id": str(uuid.uuid5(NAMESPACE, f"{request.incident}/{key}")),
        "occurred": iso_text(wall_ms),
        "event": name,
        "resource": {
            "prefect.resource.id": resource(request.model),
            "prefect.resource.name": request.model,
        },
        "related": [],
        "payload": {
            "model": request.model,
            "traceparent": "",  # of the check; the sender of the event sets it
            "incident": request.incident,
            **payload,
            "reason": request.reason,
        },
    }
