"""The OpenAPI document of the gateway's Open Inference Protocol.

About binary tensors it says only that there are bytes: they follow the JSON in one body, which
OpenAPI can't describe.

Source: KServe, Open Inference Protocol v2, REST, and its binary tensor data extension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from mlplatform.model.definition import ModelDefinition, dns_name
from mlplatform.model.tensors.named_tensors import DATATYPES
from mlplatform.model.tensors.vectors import spans
from mlplatform.runtime.http.problems import ProblemDetails
from mlplatform.scoring.api.openapi_parts import (
    POST_STATUSES,
    PROBLEM,
    Json,
    document,
    header,
    open_path,
    priority_header,
    problems,
    read_path,
    ref,
    success,
    timeout_header,
    trace_header,
    version_header,
)
from mlplatform.scoring.predictor.protocol import DATATYPE, HEADER_LENGTH, INPUT, OUTPUT
from mlplatform.scoring.request.raw_calls import MAX_ROWS, PARAMETER

PATH: Final = "/openapi/inference.json"

_TEXT: Final[Json] = {"type": "string"}
_BYTES: Final[Json] = {"schema": {"type": "string", "format": "binary"}}
_NUMBER: Final[Json] = {"type": ["number", "null"]}
_FAULT: Final = "InferenceProblem"
_VERSION: Final[Json] = {
    "name": "version",
    "in": "path",
    "required": True,
    "description": "Its number in the registry, or the digest of its bundle, as the model's "
    "metadata lists those that are served. Inference takes a key with scope any-version.",
    "schema": _TEXT,
}
_DESCRIPTION: Final = (
    "Rows of inputs in, raw scores out, for clients of the Open Inference Protocol v2: by the same "
    "routes, limits and log as the scoring API. Errors are the protocol's error object and problem "
    "details (RFC 9457) in one."
)


def render(definitions: Sequence[ModelDefinition]) -> str:
    """The document for these models, as JSON text."""
    paths = {
        "/v2": read_path("server_metadata", "Who answers.", ref("Server"), _FAULT),
        "/v2/health/live": open_path("server_live", "The process is alive.", 503, problem=_FAULT),
        "/v2/health/ready": open_path(
            "server_ready", "Requests can be answered.", 503, problem=_FAULT
        ),
    }
    for definition in definitions:
        paths.update(_model_paths(definition))
    info = {"title": "Open Inference Protocol", "version": "2", "description": _DESCRIPTION}
    return document(info, paths, _schemas(definitions))


def _model_paths(definition: ModelDefinition) -> Json:
    name, root = definition.name, f"/v2/models/{definition.name}"
    paths = {
        root: read_path(f"{name}_metadata", f"What {name} takes and gives.", ref("Model"), _FAULT),
        f"{root}/ready": read_path(
            f"{name}_ready", f"A version of {name} is promoted.", ref("Ready"), _FAULT
        ),
        f"{root}/infer": {"post": _infer(definition, f"{name}_infer", [version_header()])},
    }
    of, version = f"a version of {name}", f"{root}/versions/{{version}}"
    named = {
        version: read_path(
            f"{name}_version_metadata", f"What {of} takes and gives.", ref("Model"), _FAULT
        ),
        f"{version}/ready": read_path(
            f"{name}_version_ready", f"Whether {of} is served.", ref("Ready"), _FAULT
        ),
        f"{version}/infer": {"post": _infer(definition, f"{name}_version_infer", [])},
    }
    for path in named.values():
        (operation,) = path.values()
        operation["parameters"] = [_VERSION, *operation.get("parameters", [])]
        operation["responses"] |= problems((404,), _FAULT)
    return paths | named


def _infer(definition: ModelDefinition, operation: str, parameters: list[Json]) -> Json:
    length = header(HEADER_LENGTH, "How many bytes of the body are JSON; binary tensors follow.")
    width = len(definition.inputs)
    tensor = {"name": INPUT, "shape": [1, width], "datatype": DATATYPE, "data": [0.0] * width}
    sent = {"schema": ref(_request(definition)), "example": {"inputs": [tensor]}}
    answered = success(ref("InferenceAnswer"))
    answered["content"]["application/octet-stream"] = _BYTES
    answered["headers"] = {HEADER_LENGTH: {"schema": {"type": "integer"}}}
    return {
        "operationId": operation,
        "summary": f"Raw scores of up to {MAX_ROWS} rows, each decided and recorded by itself.",
        "parameters": [
            timeout_header(definition), priority_header(), trace_header(), length, *parameters
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": sent, "application/octet-stream": _BYTES},
        },
        "responses": {"200": answered, **problems((*POST_STATUSES, 404), _FAULT)},
    }  # fmt: skip


def _schemas(definitions: Sequence[ModelDefinition]) -> Json:
    _, found = msgspec.json.schema_components(
        [ProblemDetails], ref_template="#/components/schemas/{name}"
    )
    problem = dict(found[PROBLEM])
    problem["properties"] = {"error": _TEXT, **problem["properties"]}
    problem["required"] = ["error", *problem["required"]]
    shapes = {"type": "array", "items": {"type": "integer"}}
    described = _object(name=_TEXT, datatype=_TEXT, shape=shapes)
    scores = _object(name={"const": OUTPUT}, datatype={"const": DATATYPE}, shape=shapes)
    scores["properties"]["data"] = {"type": "array", "items": _NUMBER}
    scores["properties"]["parameters"] = {"type": "object"}
    answer = _object(
        model_name=_TEXT, model_version=_TEXT, outputs={"type": "array", "items": scores}
    )
    answer["properties"]["id"] = _TEXT
    tensors = {"type": "array", "items": described}
    texts = {"type": "array", "items": _TEXT}
    return {
        _FAULT: problem,
        "InferenceAnswer": answer,
        "Model": _object(
            name=_TEXT, versions=texts, platform=_TEXT, inputs=tensors, outputs=tensors
        ),
        "Ready": _object(name=_TEXT, ready={"type": "boolean"}),
        "Server": _object(name=_TEXT, version=_TEXT, extensions=texts),
        **{_request(definition): _request_schema(definition) for definition in definitions},
    }


def _request(definition: ModelDefinition) -> str:
    return "".join(part.capitalize() for part in dns_name(definition.name).split("-")) + "Inference"


def _request_schema(definition: ModelDefinition) -> Json:
    width = len(definition.inputs)
    tensor = _object(
        name={"const": INPUT},
        datatype={"const": DATATYPE},
        shape={
            "type": "array",
            "description": f"Rows and inputs: [n, {width}], n at most {MAX_ROWS}.",
            "prefixItems": [{"type": "integer", "minimum": 1}, {"const": width}],
            "items": False,
            "minItems": 2,
        },
    )
    tensor["properties"]["data"] = {
        "type": "array",
        "description": "The values row by row, flat or nested; null is a missing one.",
        "items": {"anyOf": [_NUMBER, {"type": "array", "items": _NUMBER}]},
    }
    tensor["properties"]["parameters"] = {"type": "object"}
    several, named = _named_tensors(definition)
    request = _object(
        inputs={
            "anyOf": [
                {"type": "array", "minItems": 1, "maxItems": 1, "items": tensor},
                {"type": "array", "minItems": several, "maxItems": several, "items": named},
            ]
        }
    )
    key = {
        "description": f"The {definition.assignment_unit} that the rows belong to; without it the "
        "champion answers, and no rollout counts the record.",
    }
    request["properties"] |= {
        "id": {"type": ["string", "null"]},
        "parameters": {"type": "object", "properties": {PARAMETER: key}},
        "outputs": {"type": "array", "items": _object(name={"const": OUTPUT})},
    }
    return request


def _named_tensors(definition: ModelDefinition) -> tuple[int, Json]:
    """The number of named tensors that may replace the one tensor, and the schema of each."""
    signature = definition.signature
    inputs = [name for name, _ in spans([one.name for one in definition.inputs])]
    names = inputs if signature is None else [tensor.name for tensor in signature.inputs]
    tensor = _object(
        name={"enum": names},
        datatype={"enum": list(DATATYPES.values())},
        shape={"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1},
    )
    tensor["description"] = (
        "One tensor for each input, or each tensor of the model's signature once, as the model's "
        "metadata lists them."
    )
    tensor["properties"]["data"] = {
        "type": "array",
        "description": "The values row by row, flat or nested; null is a missing one.",
    }
    tensor["properties"]["parameters"] = {"type": "object"}
    return len(names), tensor


def _object(**properties: Any) -> Json:
    return {"type": "object", "required": list(properties), "properties": properties}
