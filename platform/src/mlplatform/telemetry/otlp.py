"""Spans to a collector by OTLP/HTTP, from a thread: a request waits for none of it.

Source: OpenTelemetry Protocol 1.x, OTLP/HTTP; the exporter's environment variables
(OTEL_EXPORTER_OTLP_HEADERS, _CERTIFICATE, _COMPRESSION) hold here too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, Literal, TypeVar

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from mlplatform.telemetry.spans import Span, Trace

POLL_S: Final = 0.5
MAX_WAITING: Final = 1024
MAX_A_POLL: Final = 100
"""Building and encoding a trace takes the interpreter from the event loop for about a third of a
millisecond: when every request is worth its spans, 200 a second are enough to see why."""

TIMEOUT_S: Final = 5.0
STOP_S: Final = 1.0

Outcome = Literal["exported", "dropped", "failed"]
T = TypeVar("T")
_FLAGS: Final = TraceFlags(TraceFlags.SAMPLED)
_SCOPE: Final = InstrumentationScope("mlplatform.telemetry")
_ERROR: Final = Status(StatusCode.ERROR)
_UNSET: Final = Status(StatusCode.UNSET)

log = logging.getLogger(__name__)


class SpanExport(Generic[T]):
    """Takes what spans can be built from, builds them in its thread, and sends them.

    Args:
        endpoint: of the collector, "http://host:port"; spans go to its /v1/traces.
        build: makes the spans of one item; runs in the thread.
        counted: told how many items met which end, from either thread.
    """

    def __init__(
        self,
        endpoint: str,
        resource: dict[str, str],
        build: Callable[[T], Trace],
        counted: Callable[[Outcome, int], None],
    ) -> None:
        self._resource = Resource.create(dict(resource))
        self._build = build
        self._counted = counted
        self._exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=TIMEOUT_S)
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # `_send` says it once
        self._waiting: deque[T] = deque()
        self._is_failing = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)

    def offer(self, item: T) -> None:
        """Have it sent, if there is room; costs its caller a microsecond."""
        if len(self._waiting) >= MAX_WAITING:
            self._counted("dropped", 1)
        else:
            self._waiting.append(item)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Sends what waits, for a moment; a collector that does not answer holds nobody up."""
        self._stopping.set()
        self._thread.join(STOP_S)
        self._exporter.shutdown()  # type: ignore[no-untyped-call]
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def _run(self) -> None:
        while not self._stopping.wait(POLL_S):
            self._send()
        self._send()

    def _send(self) -> None:
        items = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_A_POLL))]
        if not items:
            return
        try:
            spans = [span for item in items for span in self._readable(self._build(item))]
            is_taken = self._exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception:
            log.exception("spans were not sent")
            is_taken = False
        self._counted("exported" if is_taken else "failed", len(items))
        if is_taken == self._is_failing:
            self._is_failing = not is_taken
            log.warning("the collector takes %s spans", "no" if self._is_failing else "our")

    def _readable(self, trace: Trace) -> Sequence[ReadableSpan]:
        trace_id, wall_ns = int(trace.trace_id, 16), time.time_ns() - time.monotonic_ns()
        return [
            self._one(trace_id, span, wall_ns, is_remote=trace.has_remote_parent and not number)
            for number, span in enumerate(trace.spans)
        ]

    def _one(self, trace_id: int, span: Span, wall_ns: int, *, is_remote: bool) -> ReadableSpan:
        parent = None
        if span.parent_id is not None:
            parent = SpanContext(trace_id, int(span.parent_id, 16), is_remote, _FLAGS)
        return ReadableSpan(
            span.name,
            context=SpanContext(trace_id, int(span.span_id, 16), False, _FLAGS),
            parent=parent,
            resource=self._resource,
            attributes={a.name: value for a, value in span.attributes.items() if value is not None},
            kind=SpanKind[span.kind.kind],
            status=_ERROR if span.is_error else _UNSET,
            start_time=wall_ns + int(span.start_s * 1e9),
            end_time=wall_ns + int(span.end_s * 1e9),
            instrumentation_scope=_SCOPE,
        )
