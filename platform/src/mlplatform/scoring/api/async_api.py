"""Requests to be scored later: accepted, scored when a worker brings them, and polled for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import msgspec

from mlplatform.model.routes import VERSION_HEADER
from mlplatform.runtime.http.messages import JSON, Reply, line
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.telemetry.context import new_trace
from mlplatform.scoring.api.http import JSON_TYPE, Answerer, Endpoint, Request
from mlplatform.scoring.api.scoring_api import REPLAYED, batch_answer, caller_of
from mlplatform.scoring.api.shapes import SHAPES, Shape
from mlplatform.scoring.api.versions import VERSIONS, ApiVersion
from mlplatform.scoring.request.accepted_request import AcceptedRequest
from mlplatform.scoring.request.answers import PendingAnswer, ScoreResponse, encode
from mlplatform.scoring.request.decision import Caller
from mlplatform.scoring.request.deferred_requests import AsyncAcceptor
from mlplatform.scoring.request.payloads import decoded, decoded_batch
from mlplatform.scoring.request.scoring import Scoring

POLL_S = 1
"""Seconds that a client is told to wait before it asks again."""

_RETRY_AFTER = line(b"retry-after", str(POLL_S).encode())
_pending = msgspec.json.Decoder(PendingAnswer)
_accepted = msgspec.json.Decoder(AcceptedRequest)


def endpoints(models: Mapping[str, Scoring], deferral: AsyncAcceptor) -> dict[str, Endpoint]:
    """Path → its endpoint, for the models whose definition asks for asynchronous requests. What was
    accepted is scored and told after a definition has stopped to ask for them."""
    found: dict[str, Endpoint] = {}
    for version in VERSIONS:
        own = {f"{version.decisions}/*": _polling(version, deferral)} if deferral.models else {}
        for name, scoring in deferral.models.items():
            root = f"{version.models}/{name}"
            if scoring.definition.takes_async:
                own[f"{root}/score:async"] = _accepting(version, name, scoring, deferral)
            own[f"{root}/score:accepted"] = _bringing(version, name, scoring)
        for path, endpoint in own.items():
            found[path] = dataclasses.replace(endpoint, headers=version.lines)
    return found


def _accepting(
    version: ApiVersion, name: str, scoring: Scoring, deferral: AsyncAcceptor
) -> Endpoint:
    async def accept(request: Request) -> Reply:
        caller = _caller_of(scoring, request)
        payload = scoring.payloads.score(await request.body())
        accepted = await deferral.accept(scoring, payload, caller)
        decision_id = _pending.decode(accepted.body).decision_id
        location = line(b"location", f"{version.decisions}/{decision_id}".encode())
        headers = [JSON, location, _RETRY_AFTER]
        return Reply(accepted.body, [*headers, REPLAYED] if accepted.replayed else headers, 202)

    return _posting("score_async", name, accept)


def _bringing(version: ApiVersion, name: str, scoring: Scoring) -> Endpoint:
    shape = SHAPES[version.name]

    async def score_accepted(request: Request) -> Reply:
        request.trace = request.trace or new_trace()
        caller = _caller_of(scoring, request)
        batch = decoded_batch(await request.body())

        async def item(raw: bytes, now_s: float, deadline_s: float) -> ScoreResponse:
            accepted: AcceptedRequest = decoded(_accepted, raw)
            own = Caller(
                caller.client, now_s, deadline_s, finished=caller.finished, was_accepted=True
            )
            return await scoring.answer_accepted(accepted, own)

        # the client was charged for the items when they were accepted
        return Reply(encode(await batch_answer(batch, caller, item, shape)))

    return _posting("score_accepted", name, score_accepted)


def _caller_of(scoring: Scoring, request: Request) -> Caller:
    """The terms of a request. Raises Problem as `caller_of` does, and 422 for a named version,
    which may be gone by the time of the decision."""
    caller = caller_of(scoring, request)
    if caller.version is not None:
        detail = "what is decided later goes by the routes of that time: no version can be named"
        raise Problem(422, "invalid-header", detail, field=VERSION_HEADER)
    return caller


def _polling(version: ApiVersion, deferral: AsyncAcceptor) -> Endpoint:
    shape: Shape = SHAPES[version.name]

    async def poll(request: Request) -> Reply:
        decision_id = request.path.removeprefix(f"{version.decisions}/")
        model, stored = await deferral.find_answer(request.client, decision_id, request.started_s)
        assert request.admitted is not None
        if not request.admitted.client.may(model, "score"):
            detail = f"{request.client} may not score on model {model!r} any more"
            raise Problem(403, "forbidden", detail, field="Authorization")
        if stored is None:
            return Reply(encode(PendingAnswer(decision_id)), [JSON, _RETRY_AFTER], 202)
        return Reply(shape(stored))

    return Endpoint("decision", ("GET", "HEAD"), poll, scope="score")


def _posting(operation: str, model: str, answer: Answerer) -> Endpoint:
    return Endpoint(operation, ("POST",), answer, takes=(JSON_TYPE,), model=model, scope="score")
