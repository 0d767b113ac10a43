"""Code that every gRPC method of the gateway shares: admission, terms, and problems as statuses."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from mlplatform.model.definition import MAX_DEADLINE_MS, MIN_DEADLINE_MS
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.telemetry.context import TraceContext, new_trace, trace_context
from mlplatform.runtime.telemetry.logs import SENT
from mlplatform.runtime.telemetry.spans import Attributes
from mlplatform.scoring.admission.clients import Client, Operation
from mlplatform.scoring.admission.gate import AdmissionGate, AdmittedRequest
from mlplatform.scoring.api.terms import headers_of_version, terms
from mlplatform.scoring.request.decision import Caller, RequestOutcome
from mlplatform.scoring.request.metrics import Metrics
from mlplatform.scoring.request.scoring import Scoring
from mlplatform.scoring.request.spans import Traces

PROBLEM: Final = "problem-bin"
"""Name of the trailing metadata with the problem details (RFC 9457) as JSON."""

_CODES: Final = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ABORTED,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}

STREAM_S: Final = 10.0
STREAM_MESSAGES: Final = 64
"""Most messages of a stream of requests, and the longest time it is answered."""

M = TypeVar("M", bound=Message)
Context = grpc.aio.ServicerContext[Any, Any]

log = logging.getLogger(__name__)


@dataclass
class Call:
    """One call; its client and model are known once the call names a model, existing or not."""

    headers: dict[bytes, bytes]
    started_s: float
    gate: AdmissionGate
    peer: str
    admit_peer: Callable[[str], None]
    admitted: AdmittedRequest | None = None
    finished: list[RequestOutcome] | None = None
    model: str | None = None

    async def admit(self, model: str | None, operation: Operation) -> AdmittedRequest:
        """Admit the call. Raises Problem: 401, 403, 422, 429 or 503."""
        self.model = model
        self.admitted = await self.gate.admit(self.headers, model, operation)
        self.admit_peer(self.peer)
        return self.admitted

    @cached_property
    def trace(self) -> TraceContext | None:
        return trace_context(self.headers)

    def begin_trace(self) -> None:
        """Make a trace if the caller names none, so that all records of the call name the same
        one."""
        if self.trace is None:
            self.trace = new_trace()

    def caller(self, scoring: Scoring, client: Client, key: str = "", version: str = "") -> Caller:
        """The terms of this call. A key or a version in the message takes precedence over one in
        the metadata."""
        headers: Mapping[bytes, bytes] = self.headers
        if key:
            headers = {**headers, b"idempotency-key": key.encode()}
        if version:
            headers = headers_of_version(headers, version)
        deadline_ms = scoring.definition.deadline_ms
        return terms(
            headers,
            client,
            scoring.definition.name,
            started_s=self.started_s,
            deadline_ms=deadline_ms,
            trace=self.trace,
            finished=self.finished,
        )


Answer = Callable[[bytes, Call], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Notices = Callable[[bytes, Call, Send], Awaitable[None]]
"""Sends messages about one request until it returns; it limits its own time and number of
messages."""

_Work = Callable[[Any, Context, Call], Awaitable[Message | None]]
_NONE: Final[Mapping[str, Notices]] = MappingProxyType({})


def handlers(
    service: str,
    answers: Mapping[str, Answer],
    gate: AdmissionGate,
    metrics: Metrics,
    traces: Traces | None,
    admit: Callable[[str], None],
    *,
    streams: bool = False,
    notices: Mapping[str, Notices] = _NONE,
) -> grpc.GenericRpcHandler[Any, Any]:
    """The methods of a service. Messages are parsed here: gRPC itself would call one that can't
    be parsed the server's fault.

    Args:
        admit: called with the peer of each admitted call.
        streams: whether the methods take a stream of requests. Each message is admitted and
            answered separately.
        notices: method that answers one request with a stream of messages → its function.
    """

    def method(
        kind: Callable[..., grpc.RpcMethodHandler[Any, Any]], name: str, work: _Work
    ) -> grpc.RpcMethodHandler[Any, Any]:
        guarded = _guarded(f"grpc_{name}", work, gate, metrics, traces, admit)
        return kind(guarded, response_serializer=lambda message: message.SerializeToString())

    kind = grpc.stream_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
    works = _answers_each if streams else _answers_one
    methods = {name: method(kind, name, works(answer)) for name, answer in answers.items()}
    for name, notice in notices.items():
        methods[name] = method(grpc.unary_stream_rpc_method_handler, name, _sends(notice))
    return grpc.method_handlers_generic_handler(service, methods)


def _answers_one(answer: Answer) -> _Work:
    async def work(request: bytes, context: Context, made: Call) -> Message:
        return await answer(request, made)

    return work


def _answers_each(answer: Answer) -> _Work:
    """Answers each message of a stream, up to a time and a number of messages, because an open
    stream holds a connection."""

    async def work(requests: object, context: Context, made: Call) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(STREAM_S):
                for _ in range(STREAM_MESSAGES):
                    request = await context.read()
                    if not isinstance(request, bytes):  # grpc.aio.EOF, which the stubs lack
                        return
                    try:
                        answered = await answer(request, made)
                    finally:
                        if made.admitted is not None:
                            made.gate.leave(made.admitted)
                    await context.write(answered)

    return work


def _sends(notices: Notices) -> _Work:
    async def work(request: bytes, context: Context, made: Call) -> None:
        await notices(request, made, context.write)

    return work


def parsed(kind: type[M], request: bytes) -> M:
    """The message of a request. Raises Problem 400."""
    try:
        return kind.FromString(request)
    except DecodeError as error:
        raise Problem(400, "malformed-message", f"the request is not a {kind.__name__}") from error


def model_of(models: Mapping[str, Scoring], name: str) -> Scoring:
    """The model of that name. Raises Problem 404."""
    scoring = models.get(name)
    if scoring is None:
        raise Problem(404, "unknown-model", f"there is no model {name[:64]!r}")
    return scoring


def _guarded(
    operation: str,
    work: _Work,
    gate: AdmissionGate,
    metrics: Metrics,
    traces: Traces | None,
    admit: Callable[[str], None],
) -> Callable[[Any, Context], Awaitable[Message | None]]:
    async def call(request: Any, context: Context) -> Message | None:
        status = 200
        problem_name = ""
        made = Call(_headers(context), time.monotonic(), gate, context.peer(), admit)
        if traces is not None:
            made.finished = []
        try:
            return await work(request, context, made)
        except Problem as problem:
            status, problem_name, refusal = problem.status, problem.name, problem
        except Exception:
            trace_id = made.trace.trace_id if made.trace else None
            log.exception(
                "%s failed", operation, extra={"trace_id": trace_id, SENT: _body_of(request)}
            )
            status, problem_name = 500, "internal"
            refusal = Problem(
                500, "internal", "the gateway failed at this request; its log says why"
            )
        finally:
            if made.admitted is not None:
                gate.leave(made.admitted)
            metrics.count_answer(operation, status, made.model)
            if traces is not None:
                _end_trace(traces, operation, made, status, problem_name)
        trailers: list[tuple[str, str | bytes]] = [(PROBLEM, refusal.body)]
        if refusal.retry_after_s is not None:
            trailers.append(("retry-after", str(refusal.retry_after_s)))
        code = _CODES.get(status, grpc.StatusCode.INTERNAL)
        await context.abort(code, str(refusal), tuple(trailers))
        raise AssertionError("abort raises")

    return call


def _body_of(request: object) -> bytes:
    """The request's bytes for a log line; empty for a stream."""
    return request if isinstance(request, bytes) else b""


def _end_trace(traces: Traces, operation: str, made: Call, status: int, problem: str) -> None:
    def attributes() -> Attributes:
        return {
            signals.RPC_SYSTEM: "grpc",
            signals.ERROR_TYPE: problem if status >= 500 else None,
        }

    traces.end(operation, made.trace, made.started_s, status, made.finished or (), attributes)


def _headers(context: Context) -> dict[bytes, bytes]:
    """The metadata as headers, with the call's deadline as the request's."""
    headers = {
        key.encode(): value if isinstance(value, bytes) else value.encode()
        for key, value in context.invocation_metadata() or ()
    }
    left_s = context.time_remaining()
    if left_s is not None:
        left_ms = min(max(int(left_s * 1000), MIN_DEADLINE_MS), MAX_DEADLINE_MS)
        headers[b"x-request-timeout-ms"] = str(left_ms).encode()
    return headers
