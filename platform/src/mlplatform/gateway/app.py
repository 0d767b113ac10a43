"""What the gateway answers to each path: a raw ASGI application over a table of endpoints."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from mlplatform.admission.clients import Operation
from mlplatform.admission.gate import Gate
from mlplatform.gateway import async_api, inference_api, probes, scoring_api
from mlplatform.gateway.deferred import Deferral
from mlplatform.gateway.http import Endpoint, Receive, Reply, Request, Send
from mlplatform.gateway.labels import Labels
from mlplatform.gateway.metrics import Metrics
from mlplatform.gateway.probes import Health
from mlplatform.gateway.problems import Problem
from mlplatform.gateway.scoring import Scoring
from mlplatform.gateway.spans import Traces
from mlplatform.gateway.trace import trace_context
from mlplatform.gateway.voids import Voids
from mlplatform.telemetry import signals
from mlplatform.telemetry.spans import Attributes

UNKNOWN = "unknown"
"""Operation of a path that leads nowhere, in the metrics."""

log = logging.getLogger(__name__)


class Gateway:
    """The scoring API over the models of this installation.

    Args:
        traces: gets every request when it is over; None where nobody wants spans.
        documents: path → OpenAPI document.
        is_alive: whether answers can still be recorded; if not, this process must be restarted.
        is_ready: whether routes were read at least once.
        start, stop: run when the server starts, and when it has finished its last request.
    """

    def __init__(
        self,
        gate: Gate,
        models: Mapping[str, Scoring],
        labels: Labels,
        voids: Voids,
        deferral: Deferral,
        metrics: Metrics,
        traces: Traces | None,
        documents: Mapping[str, bytes],
        is_alive: Callable[[], bool],
        is_ready: Callable[[], bool],
        start: Callable[[], Awaitable[None]],
        stop: Callable[[], Awaitable[None]],
    ) -> None:
        self._gate = gate
        self._models = models
        self._metrics = metrics
        self._traces = traces
        self._start = start
        self._stop = stop
        health = Health(is_alive, is_ready)
        self._endpoints: dict[str, Endpoint] = {
            **probes.endpoints(health, metrics, models, documents),
            **scoring_api.endpoints(models, labels, voids, gate),
            **async_api.endpoints(models, deferral),
            **inference_api.endpoints(models, health, gate),
        }

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        now_s = time.monotonic()
        request = Request(scope["method"], scope["path"], dict(scope["headers"]), receive, now_s)
        request.trace = trace_context(request.headers)
        if self._traces is not None:
            request.finished = []
        endpoint = self._endpoints.get(request.path) or self._named(request.path)
        try:
            reply = await self._reply(request, endpoint)
        except Problem as problem:
            await request.discard()
            body = endpoint.refusal(problem) if endpoint else self._refusal(request.path, problem)
            reply = Reply(body, problem.headers, problem.status)
        except Exception:
            trace_id = request.trace.trace_id if request.trace else None
            known = request.path if endpoint else UNKNOWN
            log.exception("%s %s failed", request.method, known, extra={"trace_id": trace_id})
            fault = Problem(500, "internal", "this is the gateway's fault; its log says more")
            reply = Reply(fault.body, fault.headers, fault.status)
        finally:
            if request.admitted is not None:
                self._gate.leave(request.admitted)
        headers = reply.headers
        if endpoint is None:
            self._metrics.answered(UNKNOWN, reply.status)
        else:
            self._metrics.answered(endpoint.operation, reply.status)
            headers.extend(endpoint.headers)
        if request.trace is not None:
            headers.extend(request.trace.headers)
        headers.append((b"content-length", str(len(reply.body)).encode()))
        if reply.status == 413:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})
        if self._traces is not None:
            self._ended(self._traces, request, endpoint, reply.status)

    def _ended(
        self, traces: Traces, request: Request, endpoint: Endpoint | None, status: int
    ) -> None:
        def attributes() -> Attributes:
            return {
                signals.HTTP_METHOD: request.method,
                signals.HTTP_STATUS: status,
                signals.HTTP_ROUTE: self._route(request.path) if endpoint else None,
                signals.ERROR_TYPE: str(status) if status >= 500 else None,
            }

        operation = endpoint.operation if endpoint else UNKNOWN
        finished = request.finished or ()
        traces.ended(operation, request.trace, request.started_s, status, finished, attributes)

    def _route(self, path: str) -> str:
        return path if path in self._endpoints else f"{path.rpartition('/')[0]}/*"

    def _named(self, path: str) -> Endpoint | None:
        """The endpoint of a path whose last part names something; `*` stands for it."""
        folder, _, name = path.rpartition("/")
        return self._endpoints.get(f"{folder}/*") if name and name != "*" else None

    async def _reply(self, request: Request, endpoint: Endpoint | None) -> Reply:
        if endpoint is None:
            if request.path.startswith(inference_api.MODELS):
                await self._admit(request, inference_api.model_of(request.path), "read")
                raise inference_api.unknown(request.path, self._models)
            if not request.path.startswith(scoring_api.API):
                raise Problem(404, "unknown-path", f"there is nothing at {request.path}")
            await self._admit(request, scoring_api.model_of(request.path), "read")
            raise scoring_api.unknown(request.path, self._models)
        if not endpoint.is_open:
            await self._admit(request, endpoint.model, endpoint.scope)
        endpoint.check(request)
        return await endpoint.answer(request)

    @staticmethod
    def _refusal(path: str, problem: Problem) -> bytes:
        is_inference = path.startswith(inference_api.ROOT)
        return inference_api.refusal(problem) if is_inference else problem.body

    async def _admit(self, request: Request, model: str | None, scope: Operation) -> None:
        """Raises Problem: 401, 403, 422, 429, 503."""
        request.admitted = await self._gate.admit(request.headers, model, scope)
        request.client = request.admitted.client.name

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await self._start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stop()
        await send({"type": "lifespan.shutdown.complete"})
