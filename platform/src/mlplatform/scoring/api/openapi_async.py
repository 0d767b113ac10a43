"""The part of the OpenAPI documents on asynchronous requests."""

from __future__ import annotations

from typing import Any, Final

from mlplatform.model.definition import ModelDefinition
from mlplatform.scoring.api.openapi_parts import (
    POST_STATUSES,
    READ_STATUSES,
    Json,
    header_ref,
    key_header,
    list_schema,
    post,
    priority_header,
    problems,
    ref,
    replayed_header,
    request_list,
    success,
    timeout_header,
    trace_header,
)
from mlplatform.scoring.api.reference import examples
from mlplatform.scoring.api.shapes import TYPES
from mlplatform.scoring.api.versions import ApiVersion
from mlplatform.scoring.request.accepted_request import AcceptedRequest
from mlplatform.scoring.request.answers import PendingAnswer
from mlplatform.scoring.request.payloads import Payloads

TYPES_USED: Final[list[Any]] = [PendingAnswer, AcceptedRequest]


def paths(version: ApiVersion, definition: ModelDefinition, payloads: Payloads) -> Json:
    """The paths of a model that accepts such requests, and the path for polling."""
    name, root = definition.name, f"{version.models}/{definition.name}"
    location = {
        "description": "Where to ask for the decision.",
        "required": True,
        "schema": {"type": "string"},
    }
    accepting = post(
        f"score_{name}_async",
        "Leave a request to be decided later, at its own event time. The request is durable before "
        "the answer, and the answer names the decision to ask for. This call and score share one "
        "space of idempotency keys.",
        parameters=[key_header(), priority_header(), trace_header()],
        body=ref(payloads.request.__name__),
        example=examples.score(definition),
        answer=ref("PendingAnswer"),
        statuses=POST_STATUSES,
        status="202",
        headers={"Location": location, **header_ref("Retry-After"), **replayed_header()},
    )
    bringing = post(
        f"score_{name}_accepted",
        "Decide accepted requests as the topic of requests holds them: for workers. Each is "
        "decided once for its id, however often it comes; what no gateway accepted is refused.",
        parameters=[timeout_header(definition), priority_header()],
        body=request_list("requests", "AcceptedRequest"),
        answer=list_schema("results", "BatchResult"),
        statuses=POST_STATUSES,
    )
    return {
        f"{root}/score:async": accepting,
        f"{root}/score:accepted": bringing,
        f"{version.decisions}/{{decision_id}}": _polling(version),
    }


def _polling(version: ApiVersion) -> Json:
    identity = {
        "name": "decision_id",
        "in": "path",
        "required": True,
        "description": "As `score:async` gave it; no other client finds it.",
        "schema": {"type": "string"},
    }
    pending = success(ref("PendingAnswer"), headers=header_ref("Retry-After"))
    responses = {
        "200": success(ref(TYPES[version.name].__name__)),
        "202": {**pending, "description": "Not decided yet."},
        **problems((*READ_STATUSES, 404)),
    }
    operation = {
        "operationId": "get_decision",
        "summary": "The decision on a request that was left to be decided later.",
        "parameters": [identity],
        "responses": responses,
    }
    return {"get": operation}
