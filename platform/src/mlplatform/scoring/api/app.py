"""The gateway's answer to each path: an application over a table of endpoints."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from mlplatform.runtime.http import messages
from mlplatform.runtime.http.messages import Refusal, Reply, line
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.telemetry.context import trace_context
from mlplatform.runtime.telemetry.logs import SENT
from mlplatform.runtime.telemetry.spans import Attributes
from mlplatform.scoring.admission.clients import Operation
from mlplatform.scoring.admission.gate import AdmissionGate
from mlplatform.scoring.api import async_api, features_api, inference_api, probes, scoring_api
from mlplatform.scoring.api.http import SHOWN, Endpoint, Request, problem_of
from mlplatform.scoring.api.probes import Health
from mlplatform.scoring.explanations.explanations import Explanations
from mlplatform.scoring.labels.labels import Labels
from mlplatform.scoring.labels.voids import Voids
from mlplatform.scoring.pushes.pushes import FeaturePushes
from mlplatform.scoring.request.deferred_requests import AsyncAcceptor
from mlplatform.scoring.request.metrics import Metrics
from mlplatform.scoring.request.scoring import Scoring
from mlplatform.scoring.request.spans import Traces

UNKNOWN = "unknown"
"""Operation of an unknown path in the metrics."""

log = logging.getLogger(__name__)


class Gateway:
    """The scoring API over the models of this installation. It answers nothing before `use`, which
    may replace them as a whole.

    Args:
        traces: gets every request after its end; None if spans are not collected.
        is_alive: returns whether answers can still be recorded; if not, the process must be
            restarted.
        is_ready: returns whether routes were read at least once.
        unread: returns a sentence for each model whose folder is not what is served.
    """

    def __init__(
        self,
        gate: AdmissionGate,
        voids: Voids,
        explanations: Explanations,
        pushes: FeaturePushes,
        metrics: Metrics,
        traces: Traces | None,
        is_alive: Callable[[], bool],
        is_ready: Callable[[], bool],
        unread: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._gate = gate
        self._models: Mapping[str, Scoring] = {}
        self._endpoints: Mapping[str, Endpoint] = {}
        self._metrics = metrics
        self._traces = traces
        self._voids, self._explanations = voids, explanations
        self._pushes = pushes
        self._health = Health(is_alive, is_ready, lambda: [*_complaints(self._models), *unread()])

    def endpoints(
        self,
        models: Mapping[str, Scoring],
        labels: Labels,
        deferral: AsyncAcceptor,
        documents: Mapping[str, bytes],
    ) -> Mapping[str, Endpoint]:
        """Path → endpoint over these models, for `use`; it may be called in any thread.

        Args:
            documents: path → OpenAPI document.
        """
        health, gate = self._health, self._gate
        return {
            **probes.endpoints(health, self._metrics, models, documents),
            **scoring_api.endpoints(models, labels, self._voids, gate),
            **scoring_api.explanation_endpoints(self._explanations, models, gate),
            **scoring_api.ranking_endpoints(models, gate),
            **async_api.endpoints(models, deferral),
            **inference_api.endpoints(models, health, gate),
            **features_api.endpoints(self._pushes, gate, models),
        }

    def use(self, models: Mapping[str, Scoring], endpoints: Mapping[str, Endpoint]) -> None:
        """Answer over these models from the next request on; requests under way keep theirs."""
        self._models, self._endpoints = models, endpoints

    async def answer(self, message: messages.Request) -> Reply:
        """The reply to a request, whatever becomes of it."""
        now_s = time.monotonic()
        request = Request(message, message.method, message.path, message.headers, now_s)
        request.trace = trace_context(request.headers)
        if self._traces is not None:
            request.finished = []
        endpoint = self._endpoints.get(request.path) or self._endpoint_of(request.path)
        problem_name = ""
        try:
            reply = await self._reply(request, endpoint)
        except Problem as problem:
            problem_name = problem.name
            body = endpoint.refusal(problem) if endpoint else self._refusal(request.path, problem)
            reply = _problem_reply(problem, body)
        except Exception:
            trace_id = request.trace.trace_id if request.trace else None
            known = request.path if endpoint else UNKNOWN
            extra = {"trace_id": trace_id, SENT: request.message.arrived}
            log.exception("%s %s failed", request.method, known, extra=extra)
            fault = Problem(500, "internal", "the gateway failed at this request; its log says why")
            problem_name = fault.name
            reply = _problem_reply(fault, fault.body)
        finally:
            if request.admitted is not None:
                self._gate.leave(request.admitted)
        if endpoint is None:
            self._metrics.count_answer(UNKNOWN, reply.status, None)
        else:
            self._metrics.count_answer(endpoint.operation, reply.status, endpoint.model)
            if endpoint.headers:
                reply.headers = [*reply.headers, *endpoint.headers]
        trace = request.trace
        is_kept = trace is not None and trace.is_sampled
        if self._traces is not None:
            is_kept = self._end_trace(self._traces, request, endpoint, reply.status, problem_name)
        if trace is not None:
            traced = (line(name, value) for name, value in trace.headers(is_kept=is_kept))
            reply.headers = [*reply.headers, *traced]
        return reply

    def refusal(self, refused: Refusal) -> Reply:
        """The reply to a request that the connection itself refused."""
        problem = problem_of(refused)
        return _problem_reply(problem, problem.body)

    def on_ended(self, reason: str) -> None:
        """Count a connection that was ended."""
        self._metrics.admission.connection_refused(reason)

    def _end_trace(
        self,
        traces: Traces,
        request: Request,
        endpoint: Endpoint | None,
        status: int,
        problem: str,
    ) -> bool:
        def attributes() -> Attributes:
            return {
                signals.HTTP_METHOD: request.method,
                signals.HTTP_STATUS: status,
                signals.HTTP_ROUTE: self._pattern(request.path) if endpoint else None,
                signals.ERROR_TYPE: problem if status >= 500 else None,
            }

        operation, done = endpoint.operation if endpoint else UNKNOWN, request.finished or ()
        return traces.end(operation, request.trace, request.started_s, status, done, attributes)

    def _endpoint_of(self, path: str) -> Endpoint | None:
        """The endpoint of a path, one part of which may be a name."""
        return self._endpoints.get(self._pattern(path))

    def _pattern(self, path: str) -> str:
        """The path as a key of the endpoints: `*` stands for a name in the last part, or in the
        part before it."""
        if path in self._endpoints:
            return path
        folder, _, last = path.rpartition("/")
        above, _, name = folder.rpartition("/")
        found = ((f"{folder}/*", last), (f"{above}/*/{last}", name))
        return next((p for p, part in found if part and part != "*" and p in self._endpoints), "")

    async def _reply(self, request: Request, endpoint: Endpoint | None) -> Reply:
        if endpoint is None:
            if request.path.startswith(inference_api.MODELS):
                await self._admit(request, inference_api.model_of(request.path), "read")
                raise inference_api.unknown(request.path, self._models)
            if not request.path.startswith(scoring_api.API):
                raise Problem(404, "unknown-path", f"there is nothing at {request.path}; {SHOWN}")
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
        request.message.admit()


def _complaints(models: Mapping[str, Scoring]) -> list[str]:
    found = [scoring.freshness.complaint() for scoring in models.values()]
    stopped = [text for scoring in models.values() for text in scoring.live.stop_texts()]
    killed = [
        f"{name} is switched off by a person: no version of it is asked"
        for name, scoring in models.items()
        if scoring.live.current.routes.killed
    ]
    return [*(complaint for complaint in found if complaint is not None), *stopped, *killed]


def _problem_reply(problem: Problem, body: bytes) -> Reply:
    return Reply(body, [line(name, value) for name, value in problem.headers], problem.status)
