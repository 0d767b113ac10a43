"""What the gateway answers to each path: a raw ASGI application."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import msgspec

from mlplatform.gateway.answers import (
    BatchAnswer,
    BatchResult,
    ModelsAnswer,
    encode,
)
from mlplatform.gateway.decided import Caller
from mlplatform.gateway.keys import ApiKeys
from mlplatform.gateway.labels import Labels
from mlplatform.gateway.metrics import CONTENT_TYPE, Metrics
from mlplatform.gateway.payloads import BatchBody, LabelsBody, decoded, idempotency_key
from mlplatform.gateway.problems import Problem
from mlplatform.gateway.scoring import Given, Scoring

MAX_BODY_BYTES = 1024 * 1024
MAX_DISCARDED_BYTES = 16 * MAX_BODY_BYTES
MIN_TIMEOUT_MS = 5
MAX_TIMEOUT_MS = 10_000
MAX_CONCURRENT = 1024
BATCH_CONCURRENCY = 64
API = "/api/v1/models"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_JSON = (b"content-type", b"application/json")
_REPLAYED = (b"idempotency-replayed", b"true")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reply:
    """A success."""

    body: bytes
    headers: Headers


@dataclass(slots=True)
class Request:
    """One HTTP request; `operation` names it in the metrics."""

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    receive: Receive
    started_s: float
    operation: str = "unknown"
    is_body_read: bool = False


class Gateway:
    """The scoring API over the models of this installation.

    Args:
        is_alive: whether answers can still be recorded; if not, this process must be restarted.
        is_ready: whether routes were read at least once.
        start, stop: run when the server starts, and when it has finished its last request.
    """

    def __init__(
        self,
        keys: ApiKeys,
        models: Mapping[str, Scoring],
        labels: Labels,
        metrics: Metrics,
        openapi: bytes,
        is_alive: Callable[[], bool],
        is_ready: Callable[[], bool],
        start: Callable[[], Awaitable[None]],
        stop: Callable[[], Awaitable[None]],
    ) -> None:
        self._keys = keys
        self._models = models
        self._labels = labels
        self._metrics = metrics
        self._openapi = openapi
        self._is_alive = is_alive
        self._is_ready = is_ready
        self._start = start
        self._stop = stop
        self._concurrent = 0
        self._score = msgspec.json.Decoder(BatchBody)
        self._label = msgspec.json.Decoder(LabelsBody)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        now_s = time.monotonic()
        request = Request(scope["method"], scope["path"], dict(scope["headers"]), receive, now_s)
        self._concurrent += 1
        try:
            reply = await self._reply(request)
            status, headers, body = 200, reply.headers, reply.body
        except Problem as problem:
            if not request.is_body_read:
                await _discard(receive)
            status, headers, body = problem.status, problem.headers, problem.body
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            fault = Problem(500, "internal", "this is the gateway's fault; its log says more")
            status, headers, body = fault.status, fault.headers, fault.body
        finally:
            self._concurrent -= 1
        self._metrics.answered(request.operation, status)
        headers.append((b"content-length", str(len(body)).encode()))
        if status == 413:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _reply(self, request: Request) -> Reply:
        if request.path.startswith(API):
            client = self._client(request)
            return await self._model_reply(request, client)
        match request.path:
            case "/healthz":
                return self._get(request, "health", self._liveness)
            case "/readyz":
                return self._get(request, "ready", self._readiness)
            case "/openapi.json":
                return self._get(request, "openapi", lambda: self._openapi)
            case "/metrics":
                self._client(request)
                return self._get(request, "metrics", self._metrics_text, CONTENT_TYPE)
        raise Problem(404, "unknown-path", f"there is nothing at {request.path}")

    async def _model_reply(self, request: Request, client: str) -> Reply:
        match request.path[len(API) :].split("/"):
            case [""]:
                return self._get(request, "models", self._list)
            case ["", name]:
                scoring = self._model(name)
                return self._get(request, "model", lambda: encode(scoring.live.state()))
            case ["", name, "score"]:
                request.operation = "score"
                return await self._score_one(self._model(name), request, client)
            case ["", name, "score:batch"]:
                request.operation = "score_batch"
                return await self._score_batch(self._model(name), request, client)
            case ["", name, "labels"]:
                request.operation = "labels"
                return await self._add_labels(self._model(name), request, client)
        raise Problem(404, "unknown-path", f"there is nothing at {request.path}")

    async def _score_one(self, scoring: Scoring, request: Request, client: str) -> Reply:
        caller = self._caller(scoring, request, client)
        body = await self._body(request)
        given = await scoring.answer(scoring.payloads.score(body), caller)
        return Reply(given.body, [_JSON, _REPLAYED] if given.replayed else [_JSON])

    async def _score_batch(self, scoring: Scoring, request: Request, client: str) -> Reply:
        terms = self._caller(scoring, request, client)
        if terms.key is not None:
            detail = "in a batch every item has its own idempotency_key"
            raise Problem(422, "invalid-header", detail, field="Idempotency-Key")
        batch: BatchBody = decoded(self._score, await self._body(request))
        room = asyncio.Semaphore(BATCH_CONCURRENCY)
        budget_s = terms.deadline_s - terms.started_s

        async def item(raw: msgspec.Raw) -> BatchResult:
            async with room:
                return await _batch_result(scoring, bytes(raw), terms, budget_s)

        results = await asyncio.gather(*map(item, batch.requests))
        return Reply(encode(BatchAnswer(results)), [_JSON])

    async def _add_labels(self, scoring: Scoring, request: Request, client: str) -> Reply:
        self._require_post(request)
        body: LabelsBody = decoded(self._label, await self._body(request))
        answer = await self._labels.add(scoring.definition.name, client, body.labels)
        return Reply(encode(answer), [_JSON])

    def _caller(self, scoring: Scoring, request: Request, client: str) -> Caller:
        self._require_post(request)
        headers = request.headers
        timeout_ms = _timeout_ms(
            headers.get(b"x-request-timeout-ms"), scoring.definition.deadline_ms
        )
        return Caller(
            client=client,
            started_s=request.started_s,
            deadline_s=request.started_s + timeout_ms / 1000,
            key=idempotency_key(headers.get(b"idempotency-key")),
            trace_id=_trace_id(headers.get(b"traceparent")),
        )

    def _require_post(self, request: Request) -> None:
        """A JSON body by POST, and room for one more request."""
        if request.method != "POST":
            detail = f"{request.path} takes POST, not {request.method}"
            raise Problem(405, "wrong-method", detail, allow="POST")
        media_type = request.headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if media_type != b"application/json":
            detail = f"the body must be application/json, not {media_type.decode('latin-1')!r}"
            raise Problem(415, "wrong-content-type", detail, field="Content-Type")
        if self._concurrent > MAX_CONCURRENT:
            detail = f"{MAX_CONCURRENT} requests are being answered already"
            raise Problem(503, "overloaded", detail, retry_after_s=1)

    def _client(self, request: Request) -> str:
        client = self._keys.client(request.headers.get(b"authorization"))
        if client is None:
            detail = "send a valid API key as Authorization: Bearer <key>"
            raise Problem(401, "unauthenticated", detail, field="Authorization")
        return client

    def _model(self, name: str) -> Scoring:
        scoring = self._models.get(name)
        if scoring is None:
            raise Problem(404, "unknown-model", f"there is no model {name[:64]!r}")
        return scoring

    def _get(
        self,
        request: Request,
        operation: str,
        body: Callable[[], bytes],
        content_type: bytes = _JSON[1],
    ) -> Reply:
        request.operation = operation
        if request.method not in ("GET", "HEAD"):
            detail = f"{request.path} takes GET, not {request.method}"
            raise Problem(405, "wrong-method", detail, allow="GET, HEAD")
        return Reply(body(), [(b"content-type", content_type)])

    def _list(self) -> bytes:
        states = [scoring.live.state() for scoring in self._models.values()]
        return bytes(encode(ModelsAnswer(states)))

    def _liveness(self) -> bytes:
        if not self._is_alive():
            detail = "nothing can be recorded any more: this process must be restarted"
            raise Problem(503, "log-stopped", detail)
        return b'{"status":"alive"}'

    def _readiness(self) -> bytes:
        self._liveness()
        if not self._is_ready():
            raise Problem(503, "not-ready", "routes are not read yet", retry_after_s=1)
        return b'{"status":"ready"}'

    def _metrics_text(self) -> bytes:
        return self._metrics.text(self._breakers())

    def _breakers(self) -> Iterable[tuple[str, str, str]]:
        for name, scoring in self._models.items():
            for service, target in scoring.live.current.targets.items():
                yield name, service, target.breaker.state

    async def _body(self, request: Request) -> bytes:
        length = request.headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > MAX_BODY_BYTES:
            raise _too_large()
        message = await request.receive()
        body: bytes = message.get("body", b"")
        while message.get("more_body", False) and len(body) <= MAX_BODY_BYTES:
            message = await request.receive()
            body += message.get("body", b"")
        request.is_body_read = not message.get("more_body", False)
        if len(body) > MAX_BODY_BYTES:
            raise _too_large()
        return body

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await self._start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stop()
        await send({"type": "lifespan.shutdown.complete"})


async def _batch_result(
    scoring: Scoring, raw: bytes, terms: Caller, budget_s: float
) -> BatchResult:
    now_s = time.monotonic()
    try:
        request = scoring.payloads.batch_item(raw)
        caller = Caller(terms.client, now_s, now_s + budget_s, request.key, terms.trace_id)
        given: Given = await scoring.answer(request, caller)
    except Problem as problem:
        return BatchResult(problem=problem.details)
    return BatchResult(answer=msgspec.Raw(given.body), replayed=given.replayed)


async def _discard(receive: Receive) -> None:
    """Read the rest of a refused body, so that its sender gets to read the answer."""
    size = 0
    while size <= MAX_DISCARDED_BYTES:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body", False):
            return


def _too_large() -> Problem:
    return Problem(413, "too-large", f"the body is larger than {MAX_BODY_BYTES} bytes")


def _timeout_ms(header: bytes | None, default_ms: float) -> float:
    if header is None:
        return default_ms
    if (
        not header.isdigit()
        or len(header) > 5
        or not MIN_TIMEOUT_MS <= int(header) <= MAX_TIMEOUT_MS
    ):
        detail = f"X-Request-Timeout-Ms must be {MIN_TIMEOUT_MS} to {MAX_TIMEOUT_MS}"
        raise Problem(422, "invalid-header", detail, field="X-Request-Timeout-Ms")
    return float(header)


def _trace_id(traceparent: bytes | None) -> str | None:
    """The trace id of a W3C traceparent header; a malformed one counts as absent."""
    parts = (traceparent or b"").split(b"-")
    if len(parts) < 4 or len(parts[1]) != 32 or not parts[1].isalnum():
        return None
    return parts[1].decode("ascii")
