"""`/api/…/models`: the calls of applications, as JSON over HTTP."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from mlplatform.runtime.http.messages import JSON, Reply, line
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.telemetry.context import new_trace
from mlplatform.scoring.admission.clients import Operation
from mlplatform.scoring.admission.gate import AdmissionGate
from mlplatform.scoring.api.http import JSON_TYPE, SHOWN, Answerer, Endpoint, Request, reading
from mlplatform.scoring.api.shapes import SHAPES, Shape
from mlplatform.scoring.api.terms import terms
from mlplatform.scoring.api.versions import LATEST, VERSIONS, ApiVersion
from mlplatform.scoring.explanations.explanations import Explanations
from mlplatform.scoring.labels.labels import Labels
from mlplatform.scoring.labels.voids import Voids
from mlplatform.scoring.rankings.scoring import RankingScoring
from mlplatform.scoring.request.answers import (
    BatchAnswer,
    BatchResult,
    ModelsAnswer,
    ScoreResponse,
    encode,
)
from mlplatform.scoring.request.decision import Caller
from mlplatform.scoring.request.payloads import (
    BatchBody,
    VoidBody,
    decoded_batch,
    decoded_labels,
    decoded_once,
)
from mlplatform.scoring.request.scoring import Scoring

API = "/api/"
BATCH_CONCURRENCY = 64

REPLAYED = line(b"idempotency-replayed", b"true")
_void = msgspec.json.Decoder(VoidBody)


def endpoints(
    models: Mapping[str, Scoring], labels: Labels, voids: Voids, gate: AdmissionGate
) -> dict[str, Endpoint]:
    """Path → its endpoint, for every model of this installation."""

    async def list_models(request: Request) -> Reply:
        assert request.admitted is not None
        may = request.admitted.client.may
        shown = [s.state() for name, s in models.items() if may(name, "read")]
        return Reply(encode(ModelsAnswer(shown)))

    found: dict[str, Endpoint] = {}
    for version in VERSIONS:
        own = {version.models: Endpoint("models", ("GET", "HEAD"), list_models)}
        for name, scoring in models.items():
            own.update(_of_model(version, name, scoring, labels, voids, gate))
        for path, endpoint in own.items():
            found[path] = dataclasses.replace(endpoint, headers=version.lines)
    return found


def explanation_endpoints(
    explanations: Explanations, models: Mapping[str, Scoring], gate: AdmissionGate
) -> dict[str, Endpoint]:
    """Path → its endpoint, for the decisions of every model, in the latest version alone."""

    def endpoint(model: str) -> Endpoint:
        async def explain(request: Request) -> Reply:
            admitted, decision_id = request.admitted, request.path.split("/")[-2]
            assert admitted is not None
            found = await explanations.explain(
                model, admitted.client, decision_id, leave=lambda: gate.leave(admitted)
            )
            return Reply(found, [JSON])

        return Endpoint(
            "explanation",
            ("GET", "HEAD"),
            explain,
            headers=LATEST.lines,
            model=model,
            scope="explain",
        )

    return {f"{LATEST.models}/{name}/decisions/*/explanation": endpoint(name) for name in models}


def ranking_endpoints(models: Mapping[str, Scoring], gate: AdmissionGate) -> dict[str, Endpoint]:
    """Path → its endpoint, for every model that puts items in order; in the latest version."""

    def endpoint(model: str, scoring: RankingScoring) -> Endpoint:
        async def rank(request: Request) -> Reply:
            caller, asked = caller_of(scoring, request), scoring.bodies.parse(await request.body())
            assert request.admitted is not None
            gate.charge(request.admitted, len(asked.items) - 1)
            response = await scoring.answer(asked, caller)
            return Reply(response.body, [JSON, REPLAYED] if response.replayed else [JSON])

        return Endpoint(
            "rank",
            ("POST",),
            rank,
            takes=(JSON_TYPE,),
            headers=LATEST.lines,
            model=model,
            scope="score",
        )

    found = {n: s for n, s in models.items() if isinstance(s, RankingScoring)}
    return {f"{LATEST.models}/{name}/rank": endpoint(name, one) for name, one in found.items()}


def model_of(path: str) -> str | None:
    """The model that a path of the API names, known or not."""
    for version in VERSIONS:
        root, _, rest = path.partition(f"{version.models}/")
        if not root and rest:
            return rest.split("/")[0]
    return None


def unknown(path: str, models: Mapping[str, Scoring]) -> Problem:
    """The problem of an unknown path of the API."""
    name = model_of(path)
    if name and name not in models:
        return Problem(404, "unknown-model", f"there is no model {name[:64]!r}; {SHOWN}")
    if name and path.endswith("/score:async"):  # each model that takes them has such a path
        detail = f"{name} takes no request to be scored later: `async` in its model.yaml enables it"
        return Problem(404, "unknown-path", detail)
    if name and path.endswith("/rank"):  # each model that ranks has such a path in v2
        detail = f"{name} puts no items in order here: `ranking` in model.yaml enables it, in v2"
        return Problem(404, "unknown-path", detail)
    return Problem(404, "unknown-path", f"there is nothing at {path}; {SHOWN}")


def _of_model(
    version: ApiVersion,
    name: str,
    scoring: Scoring,
    labels: Labels,
    voids: Voids,
    gate: AdmissionGate,
) -> dict[str, Endpoint]:
    root, shape = f"{version.models}/{name}", SHAPES[version.name]

    async def score(request: Request) -> Reply:
        caller = caller_of(scoring, request)
        response = await scoring.answer(scoring.payloads.score(await request.body()), caller)
        return Reply(shape(response.body), [JSON, REPLAYED] if response.replayed else [JSON])

    async def score_batch(request: Request) -> Reply:
        request.trace = request.trace or new_trace()
        caller = caller_of(scoring, request)
        if caller.key is not None:
            detail = "in a batch every item has its own idempotency_key"
            raise Problem(422, "invalid-header", detail, field="Idempotency-Key")
        batch = decoded_batch(await request.body())
        assert request.admitted is not None
        gate.charge(request.admitted, len(batch.requests) - 1)

        async def item(raw: bytes, now_s: float, deadline_s: float) -> ScoreResponse:
            payload = scoring.payloads.batch_item(raw)
            own = msgspec.structs.replace(
                caller, started_s=now_s, deadline_s=deadline_s, key=payload.key
            )
            return await scoring.answer(payload, own)

        return Reply(encode(await batch_answer(batch, caller, item, shape)))

    async def add_labels(request: Request) -> Reply:
        body = decoded_labels(await request.body())
        assert request.admitted is not None
        client = request.admitted.client
        added = await labels.add(scoring.definition.name, client, body.labels)
        return Reply(encode(added))

    async def add_void(request: Request) -> Reply:
        body: VoidBody = decoded_once(_void, await request.body())
        assert request.admitted is not None
        client = request.admitted.client
        return Reply(encode(await voids.add(scoring.definition.name, client, body)))

    def posting(operation: str, scope: Operation, answer: Answerer) -> Endpoint:
        return Endpoint(operation, ("POST",), answer, takes=(JSON_TYPE,), model=name, scope=scope)

    def state() -> bytes:
        return bytes(encode(scoring.state()))

    return {
        root: reading("model", state, is_open=False, model=name),
        f"{root}/score": posting("score", "score", score),
        f"{root}/score:batch": posting("score_batch", "score", score_batch),
        f"{root}/labels": posting("labels", "labels", add_labels),
        f"{root}/voids": posting("void", "void", add_void),
    }


def caller_of(scoring: Scoring, request: Request) -> Caller:
    """The terms of a request.

    Raises:
        Problem: 422 with the name of the invalid header; 403 if the client may not name a version.
    """
    assert request.admitted is not None
    return terms(
        request.headers,
        request.admitted.client,
        scoring.definition.name,
        started_s=request.started_s,
        deadline_ms=scoring.definition.deadline_ms,
        trace=request.trace,
        finished=request.finished,
    )


Item = Callable[[bytes, float, float], Awaitable[ScoreResponse]]
"""Function that answers one item, from its start and its deadline on the monotonic clock."""


async def batch_answer(batch: BatchBody, caller: Caller, item: Item, shape: Shape) -> BatchAnswer:
    """Answer each item by itself, each with the whole deadline from its own start."""
    room = asyncio.Semaphore(BATCH_CONCURRENCY)
    budget_s = caller.deadline_s - caller.started_s

    async def result(raw: msgspec.Raw) -> BatchResult:
        async with room:
            now_s = time.monotonic()
            try:
                response = await item(bytes(raw), now_s, now_s + budget_s)
            except Problem as problem:
                return BatchResult(problem=problem.details)
            return BatchResult(answer=msgspec.Raw(shape(response.body)), replayed=response.replayed)

    return BatchAnswer(await asyncio.gather(*map(result, batch.requests)))
