"""`mlplatform.scoring.v1.Scoring`: score requests over gRPC, decided like those over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from mlplatform.learning.features.policy import FeatureGaps
from mlplatform.model.definition import EVENT_TIME
from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.api.grpc_calls import Answer, Call, model_of, parsed
from mlplatform.scoring.api.scoring_api import BATCH_CONCURRENCY
from mlplatform.scoring.api.shapes import stored_answer
from mlplatform.scoring.protos import scoring_pb2 as pb
from mlplatform.scoring.request.answers import ScoreBody, encode
from mlplatform.scoring.request.decision import Caller
from mlplatform.scoring.request.payloads import MAX_ITEMS, idempotency_key
from mlplatform.scoring.request.scoring import Scoring

SERVICE: Final = "mlplatform.scoring.v1.Scoring"


def answers(models: Mapping[str, Scoring]) -> dict[str, Answer]:
    """Method → the function that answers it."""

    async def score(request: bytes, call: Call) -> pb.ScoreResponse:
        message = parsed(pb.ScoreRequest, request)
        admitted = await call.admit(message.model, "score")
        scoring = model_of(models, message.model)
        caller = call.caller(scoring, admitted.client, message.idempotency_key)
        return await _score(scoring, message, caller)

    async def score_batch(request: bytes, call: Call) -> pb.ScoreBatchResponse:
        requests = parsed(pb.ScoreBatchRequest, request).requests
        names = {item.model for item in requests}
        admitted = await call.admit(min(names, default=""), "score")
        if len(names) != 1 or len(requests) > MAX_ITEMS:
            detail = f"a batch holds 1 to {MAX_ITEMS} requests of one model"
            raise Problem(422, "invalid-field", detail, field="requests")
        scoring = model_of(models, names.pop())
        call.gate.charge(admitted, len(requests) - 1)
        call.begin_trace()
        terms_of_all = call.caller(scoring, admitted.client)
        if terms_of_all.key is not None:
            detail = "in a batch every item has its own idempotency_key"
            raise Problem(422, "invalid-header", detail, field="idempotency-key")
        room = asyncio.Semaphore(BATCH_CONCURRENCY)

        async def item(one: pb.ScoreRequest) -> pb.ScoreBatchResult:
            async with room:
                return await _result(scoring, one, terms_of_all)

        return pb.ScoreBatchResponse(results=await asyncio.gather(*map(item, requests)))

    return {"Score": score, "ScoreBatch": score_batch}


async def _score(scoring: Scoring, request: pb.ScoreRequest, caller: Caller) -> pb.ScoreResponse:
    fields: dict[str, Any] = {}
    for name, value in request.fields.items():
        kind = value.WhichOneof("kind")
        fields[name] = None if kind is None else _value(value, kind)
    fields[EVENT_TIME] = request.event_time_ms
    response = await scoring.answer(scoring.payloads.score(encode(fields)), caller)
    return _response(stored_answer(response.body), replayed=response.replayed)


def _value(value: pb.FieldValue, kind: str) -> Any:
    return list(value.vector.numbers) if kind == "vector" else getattr(value, kind)


async def _result(scoring: Scoring, request: pb.ScoreRequest, batch: Caller) -> pb.ScoreBatchResult:
    """One item, with the whole deadline from its own start."""
    now_s = time.monotonic()
    try:
        caller = msgspec.structs.replace(
            batch,
            started_s=now_s,
            deadline_s=now_s + batch.deadline_s - batch.started_s,
            key=idempotency_key(request.idempotency_key.encode() or None),
        )
        return pb.ScoreBatchResult(answer=await _score(scoring, request, caller))
    except Problem as problem:
        d = problem.details
        message = pb.Problem(
            type=d.type, title=d.title, status=d.status, detail=d.detail, field=d.field or ""
        )
        return pb.ScoreBatchResult(problem=message)


def _response(answer: ScoreBody, *, replayed: bool) -> pb.ScoreResponse:
    gaps = answer.feature_gaps or FeatureGaps()
    top = answer.top or ()
    return pb.ScoreResponse(
        decision_id=answer.decision_id,
        decision=answer.decision,
        score=answer.score,
        reasons=[pb.Reason(code=r.code, text=r.text) for r in answer.reasons],
        reasons_omitted=answer.reasons_omitted,
        answered_by=answer.answered_by,
        model_version=answer.model_version,
        bundle=answer.bundle,
        route_arm=answer.route,
        generation=answer.generation,
        degraded_reason=answer.degraded_reason if answer.degraded else None,
        replayed=replayed,
        missing_views=gaps.missing,
        stale_views=gaps.stale,
        unavailable_views=gaps.unavailable,
        top=[pb.ClassProbability(class_name=c.class_, probability=c.probability) for c in top],
    )
