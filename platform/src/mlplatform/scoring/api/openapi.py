"""The gateway's OpenAPI documents: those of the scoring API's versions, and that of the inference
protocol.

They are generated from the model definitions and the types that the gateway itself parses with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from mlplatform.model.definition import ModelDefinition
from mlplatform.model.folders import load_definition, model_names
from mlplatform.runtime.http.problems import ProblemDetails
from mlplatform.scoring.api import features_api, openapi_async, openapi_inference
from mlplatform.scoring.api.openapi_parts import (
    POST_STATUSES,
    READ_STATUSES,
    Json,
    announce,
    document,
    key_header,
    list_schema,
    open_path,
    post,
    priority_header,
    problems,
    read_path,
    ref,
    replayed_header,
    request_list,
    success,
    timeout_header,
    trace_header,
    version_header,
)
from mlplatform.scoring.api.reference import examples
from mlplatform.scoring.api.shapes import TYPES
from mlplatform.scoring.api.versions import LATEST, VERSIONS, ApiVersion
from mlplatform.scoring.arms.states import ModelState
from mlplatform.scoring.explanations.answer import ExplanationAnswer
from mlplatform.scoring.labels.kinds import ITEMS, AnyLabel
from mlplatform.scoring.rankings.answers import RankedItem, RankingAnswer
from mlplatform.scoring.rankings.bodies import RankingBodies
from mlplatform.scoring.request.answers import BatchResult, LabelsAnswer, ModelsAnswer, VoidAnswer
from mlplatform.scoring.request.payloads import (
    MAX_ITEMS,
    LabelItem,
    Payloads,
    VoidBody,
)

FOLDER: Final = "docs"
_UNEXPLAINED: Final = {
    "404": "The client was given no such decision, or its record is in another gateway's log.",
    "409": "The decision is still to come.",
    "422": "Nothing explains the decision, or a header is wrong. The problem says why: the record "
    "was erased, the version is no longer here, no model and no rule decided, rows of inputs were "
    "scored, or the decision, computed again, differs from its record.",
    "503": "Too many explanations are under way, or this one was not ready in time.",
}
"""Status of an explanation → what it means there."""
NO_PUSHES: Final[features_api.Bodies] = {}

_SCORE_STATUSES: Final = (*POST_STATUSES, 404, 409)
_CHANGES: Final = {
    "v1": "",
    "v2": " Against v1: `model_version` and `bundle` are `model.version` and `model.bundle`, null "
    "together; `route` and `generation` are `route.arm` and `route.generation`; `degraded` and "
    "`degraded_reason` are `degraded`, null or with a `reason`. Requests, headers, problems, "
    "labels and idempotency keys are the same: a key used in one version answers in the other.",
}
_DESCRIPTION: Final = (
    "Every request is decided by its deadline: `degraded` says that the assigned version did not "
    "decide it in the full way, and why. A decision is durable before it is answered. Errors are "
    "problem details (RFC 9457)."
)


def render_files() -> dict[str, str]:
    """Path under the repository's root → content of the file."""
    definitions = [load_definition(name) for name in model_names()]
    return {f"{FOLDER}{path}": text for path, text in _rendered(definitions).items()}


def documents(
    definitions: Sequence[ModelDefinition], pushed: features_api.Bodies = NO_PUSHES
) -> dict[str, bytes]:
    """Path at which a gateway shows a document → the document; the latest has a path without a
    version too.

    Args:
        pushed: the external views for which gateways accept values.
    """
    rendered = {path: text.encode() for path, text in _rendered(definitions, pushed).items()}
    return {"/openapi.json": rendered[LATEST.document], **rendered}


def _rendered(
    definitions: Sequence[ModelDefinition], pushed: features_api.Bodies = NO_PUSHES
) -> dict[str, str]:
    return {
        **{version.document: render(definitions, version, pushed) for version in VERSIONS},
        openapi_inference.PATH: openapi_inference.render(definitions),
    }


def render(
    definitions: Sequence[ModelDefinition],
    version: ApiVersion = LATEST,
    pushed: features_api.Bodies = NO_PUSHES,
) -> str:
    """The document of one version of the scoring API for these models, as JSON text."""
    pushed = pushed if version is LATEST else NO_PUSHES
    payloads = {d.name: Payloads(d) for d in definitions}
    answer = TYPES[version.name]
    labels = {LabelItem.__name__: LabelItem} | {i.__name__: i for i in map(_label, definitions)}
    types: list[Any] = [answer, BatchResult, *labels.values(), LabelsAnswer, ModelsAnswer]
    types += [ModelState, VoidBody, VoidAnswer]
    if any(d.takes_async for d in definitions):
        types += openapi_async.TYPES_USED
    types += features_api.types_used(pushed)
    types += [ExplanationAnswer] if version is LATEST else []
    ranked = {d.name: RankingBodies(d, d.ranking) for d in definitions if d.ranking is not None}
    ranked = ranked if version is LATEST else {}
    types += [RankingAnswer, *(bodies.request for bodies in ranked.values())] if ranked else []
    types += [ProblemDetails, *(t for p in payloads.values() for t in (p.request, p.item))]
    _, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schemas["BatchResult"]["properties"]["answer"] = ref(answer.__name__)
    decisions = sorted({name for d in definitions for name in d.decision.outcomes})
    schemas[answer.__name__]["properties"]["decision"] = {"enum": decisions}
    paths = _api_paths(version, definitions, payloads) | features_api.paths(pushed)
    if version is LATEST:
        schemas[ExplanationAnswer.__name__]["properties"]["decision"] = {"enum": decisions}
        paths |= {path: one for d in definitions for path, one in _explanation(version, d).items()}
    for d in definitions:
        if (bodies := ranked.get(d.name)) is not None:
            schemas[RankedItem.__name__]["properties"]["decision"] = {"enum": decisions}
            paths |= _ranking(version, d, bodies)
    announced = [name.decode().title() for name, _ in version.headers]
    announce(paths, announced)
    info = {
        "title": "Scoring API",
        "version": version.name.removeprefix("v"),
        "description": _DESCRIPTION + examples.PLACEHOLDERS + _CHANGES[version.name],
    }
    return document(info, {**paths, **_common_paths(version)}, dict(schemas), announced)


def _label(definition: ModelDefinition) -> type[AnyLabel]:
    return ITEMS[definition.task]


def _api_paths(
    version: ApiVersion, definitions: Sequence[ModelDefinition], payloads: dict[str, Payloads]
) -> Json:
    summary = "Models and the routes that this gateway applies."
    paths = {version.models: read_path("list_models", summary, ref("ModelsAnswer"))}
    for definition in definitions:
        paths.update(_model_paths(version, definition, payloads[definition.name]))
        if definition.takes_async:
            paths.update(openapi_async.paths(version, definition, payloads[definition.name]))
    return paths


def _model_paths(version: ApiVersion, definition: ModelDefinition, payloads: Payloads) -> Json:
    name, root = definition.name, f"{version.models}/{definition.name}"
    headers = [timeout_header(definition), priority_header(), trace_header(), version_header()]
    return {
        root: read_path(
            f"get_{name}", f"Routes of {name} as this gateway applies them.", ref("ModelState")
        ),
        f"{root}/score": post(
            f"score_{name}",
            definition.purpose,
            parameters=[key_header(), *headers],
            body=ref(payloads.request.__name__),
            example=examples.score(definition),
            answer=ref(TYPES[version.name].__name__),
            statuses=_SCORE_STATUSES,
            headers=replayed_header(),
        ),
        f"{root}/score:batch": post(
            f"score_{name}_batch",
            f"{definition.purpose} Up to {MAX_ITEMS} at once, each decided and recorded by itself.",
            parameters=headers,
            body=request_list("requests", payloads.item.__name__),
            example=examples.batch(definition),
            answer=list_schema("results", "BatchResult"),
            statuses=POST_STATUSES,
        ),
        f"{root}/labels": post(
            f"label_{name}",
            "Report outcomes, with the time at which they became known (now, if left out). The "
            "same label with the same time is stored once. A label without a time is stored once "
            "until the other label is sent. Of several labels for one decision the latest counts."
            " A decision of another client counts as unknown, unless the key's scope says"
            " any-client.",
            parameters=[priority_header()],
            body=request_list("labels", _label(definition).__name__),
            example=examples.labels(definition),
            answer=ref("LabelsAnswer"),
            statuses=POST_STATUSES,
        ),
        f"{root}/voids": post(
            f"void_{name}",
            "Take a decision back. Its record stays, but features, training, drift and rollouts "
            "leave it out from then on. The first reason given stays. A decision of another client "
            "counts as unknown, unless the key's scope says any-client.",
            parameters=[priority_header()],
            body=ref("VoidBody"),
            example=examples.void(),
            answer=ref("VoidAnswer"),
            statuses=POST_STATUSES,
        ),
    }


def _ranking(version: ApiVersion, definition: ModelDefinition, bodies: RankingBodies) -> Json:
    name, policy = definition.name, bodies.policy
    headers = [timeout_header(definition), priority_header(), trace_header(), version_header()]
    return {
        f"{version.models}/{name}/rank": post(
            f"rank_{name}",
            f"Put up to {policy.most} items in order; the answer has the first {policy.top}. Each "
            "item is decided and recorded by itself, and counts as a request. All of them are "
            "scored by one version. Labels name an item by its decision_id; a label by the "
            "idempotency key is about the first place.",
            parameters=[key_header(), *headers],
            body=ref(bodies.request.__name__),
            example=examples.ranking(definition),
            answer=ref(RankingAnswer.__name__),
            statuses=_SCORE_STATUSES,
            headers=replayed_header(),
        )
    }


def _explanation(version: ApiVersion, definition: ModelDefinition) -> Json:
    name = definition.name
    identity = {
        "name": "decision_id",
        "in": "path",
        "required": True,
        "description": "As the answer has it.",
        "schema": {"type": "string"},
    }
    found = problems((*READ_STATUSES, 404, 409))
    for status, text in _UNEXPLAINED.items():
        found[status]["description"] = text
    operation = {
        "operationId": f"explain_{name}",
        "summary": "Why a decision came out as it did, computed again from its record and its "
        "bundle: what each input added to the score, or which rules decided. It takes a key with "
        "scope explain. A decision of another client counts as unknown, unless the key's scope "
        "says any-client. What cannot be explained is 422, with a problem that says why.",
        "parameters": [identity, priority_header(), trace_header()],
        "responses": {"200": success(ref(ExplanationAnswer.__name__)), **found},
    }
    return {f"{version.models}/{name}/decisions/{{decision_id}}/explanation": {"get": operation}}


def _common_paths(version: ApiVersion) -> Json:
    metrics = {
        "operationId": "metrics",
        "summary": "Metrics in Prometheus' text format; takes an API key like all else.",
        "responses": {
            "200": {"description": "Metrics.", "content": {"text/plain": {}}},
            **problems(READ_STATUSES),
        },
    }
    return {
        "/healthz": open_path("healthz", "The process is alive and can record answers.", 503),
        "/readyz": open_path("readyz", "Routes are read and requests can be answered.", 503),
        version.document: open_path("openapi", "This document."),
        "/metrics": {"get": metrics},
    }
