"""`/v2`: the Open Inference Protocol over REST, for clients that know nothing of this platform.

Source: KServe, Open Inference Protocol v2, with the binary tensor data extension.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from mlplatform.runtime.http.messages import Reply, line
from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.admission.gate import AdmissionGate
from mlplatform.scoring.api.http import JSON_TYPE, SHOWN, Endpoint, Request, reading
from mlplatform.scoring.api.probes import Health
from mlplatform.scoring.api.terms import headers_of_version, terms
from mlplatform.scoring.predictor.protocol import (
    DATATYPE,
    HEADER_LENGTH,
    OUTPUT,
    RequestRefused,
    check_callers_rows,
    inference_response,
    parse,
)
from mlplatform.scoring.request.answers import encode
from mlplatform.scoring.request.duplicate_keys import refuse_repeats
from mlplatform.scoring.request.raw_calls import (
    MAX_ROWS,
    PARAMETER,
    PLATFORM,
    infer,
    problem_of,
    target_of,
    width,
)
from mlplatform.scoring.request.scoring import Scoring

ROOT: Final = "/v2"
MODELS: Final = "/v2/models/"
SERVER: Final = {"name": PLATFORM, "version": "2", "extensions": ["binary_tensor_data"]}

_LENGTH: Final = HEADER_LENGTH.lower().encode()
_MEDIA_TYPES: Final = (b"application/json", b"application/octet-stream", b"")
_BINARY: Final = line(b"content-type", b"application/octet-stream")


class _Parameters(msgspec.Struct):
    parameters: dict[str, Any] = {}


_parameters: Final = msgspec.json.Decoder(_Parameters)


def endpoints(
    models: Mapping[str, Scoring], health: Health, gate: AdmissionGate
) -> dict[str, Endpoint]:
    """Path → its endpoint, for every model of this installation."""

    def live() -> bytes:
        health.check_alive()
        return b'{"live":true}'

    def ready() -> bytes:
        health.check_ready()
        return b'{"ready":true}'

    found = {
        ROOT: _reading("inference_server", lambda: bytes(encode(SERVER)), is_open=False),
        f"{ROOT}/health/live": _reading("health", live, is_open=True),
        f"{ROOT}/health/ready": _reading("ready", ready, is_open=True),
    }
    for name, scoring in models.items():
        found.update(_of_model(f"{MODELS}{name}", scoring, gate))
    return found


def model_of(path: str) -> str:
    """The model that a path under the models names, known or not."""
    return path.removeprefix(MODELS).split("/")[0]


def unknown(path: str, models: Mapping[str, Scoring]) -> Problem:
    """The problem of an unknown path under the models."""
    name = model_of(path)
    if name not in models:
        return Problem(404, "unknown-model", f"there is no model {name[:64]!r}; {SHOWN}")
    return Problem(404, "unknown-path", f"there is nothing at {path}; {SHOWN}")


def refusal(problem: Problem) -> bytes:
    """A problem that is the protocol's error object too."""
    details = msgspec.structs.asdict(problem.details)
    body = {name: value for name, value in details.items() if value is not None}
    return bytes(encode({"error": str(problem), **body}))


def metadata(scoring: Scoring, version: str | None = None) -> dict[str, Any]:
    """The model's inputs and outputs, of a version or of the champion, with the list of versions.

    Raises:
        Problem: 503 if there is no champion; 404 if the version is not served.
    """
    target = target_of(scoring, version)
    columns = [target.bundle.classes] if target.bundle.classes else []
    return {
        "name": scoring.definition.name,
        "versions": list(dict.fromkeys(arm.bundle for arm in scoring.live.current.routes.arms)),
        "platform": PLATFORM,
        "inputs": target.named.describe(),
        "outputs": [{"name": OUTPUT, "datatype": DATATYPE, "shape": [-1, *columns]}],
    }


def _of_model(root: str, scoring: Scoring, gate: AdmissionGate) -> dict[str, Endpoint]:
    name = scoring.definition.name

    def ready() -> bytes:
        width(scoring)
        return bytes(encode({"name": name, "ready": True}))

    async def infer(request: Request) -> Reply:
        return await _infer(scoring, request, request.headers, gate)

    def describe() -> bytes:
        return bytes(encode(metadata(scoring)))

    endpoint = Endpoint(
        "infer", ("POST",), infer, takes=_MEDIA_TYPES, model=name, scope="score", refusal=refusal
    )
    return {
        root: _reading("model", describe, is_open=False, model=name),
        f"{root}/ready": _reading("model_ready", ready, is_open=False, model=name),
        f"{root}/infer": endpoint,
        **_of_versions(f"{root}/versions/*", scoring, gate, endpoint),
    }


def _of_versions(
    root: str, scoring: Scoring, gate: AdmissionGate, infer: Endpoint
) -> dict[str, Endpoint]:
    """The endpoints of a version, which the path names in the place of `*`."""
    place = root.split("/").index("*")

    def version(request: Request) -> str:
        return request.path.split("/")[place]

    async def ready(request: Request) -> Reply:
        target_of(scoring, version(request))
        return Reply(encode({"name": scoring.definition.name, "ready": True}))

    async def describe(request: Request) -> Reply:
        return Reply(encode(metadata(scoring, version(request))))

    async def infer_by(request: Request) -> Reply:
        return await _infer(
            scoring, request, headers_of_version(request.headers, version(request)), gate
        )

    reading_it = dataclasses.replace(
        infer, operation="model", methods=("GET", "HEAD"), answer=describe, takes=(), scope="read"
    )
    return {
        root: reading_it,
        f"{root}/ready": dataclasses.replace(reading_it, operation="model_ready", answer=ready),
        f"{root}/infer": dataclasses.replace(infer, answer=infer_by),
    }


async def _infer(
    scoring: Scoring, request: Request, headers: Mapping[bytes, bytes], gate: AdmissionGate
) -> Reply:
    assert request.admitted is not None
    caller = terms(
        headers,
        request.admitted.client,
        scoring.definition.name,
        started_s=request.started_s,
        deadline_ms=scoring.definition.deadline_ms,
        trace=request.trace,
        finished=request.finished,
    )
    body = await request.body()
    length = request.headers.get(_LENGTH)
    text = None if length is None else length.decode("latin-1")
    try:
        target = target_of(scoring, caller.version)
        inference = parse(body, text, len(target.plan.names), target.named)
        check_callers_rows(inference.rows, target.named)
    except RequestRefused as error:
        raise problem_of(error) from error
    head = body if text is None else body[: int(text)]
    if len(inference.rows) <= MAX_ROWS:
        refuse_repeats(head)
    key = _parameters.decode(head).parameters.get(PARAMETER)
    gate.charge(request.admitted, len(inference.rows) - 1)
    inferred_rows = await infer(scoring, inference.rows, key, caller)
    content, size = inference_response(
        inferred_rows.scores,
        model=scoring.definition.name,
        version=inferred_rows.version,
        request_id=inference.request_id,
        binary=inference.binary,
    )
    if size is None:
        return Reply(content)
    return Reply(content, [_BINARY, line(_LENGTH, str(size).encode())])


def _reading(
    operation: str, body: Callable[[], bytes], *, is_open: bool, model: str | None = None
) -> Endpoint:
    made = reading(operation, body, JSON_TYPE, is_open=is_open, model=model)
    return dataclasses.replace(made, refusal=refusal)
