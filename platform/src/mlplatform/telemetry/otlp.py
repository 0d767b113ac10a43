"""Spans to a collector by OTLP/HTTP, by the SDK's exporter.

Source: OpenTelemetry Protocol 1.x, OTLP/HTTP; the exporter's environment variables
(OTEL_EXPORTER_OTLP_HEADERS, _CERTIFICATE, _COMPRESSION) hold here too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from mlplatform.telemetry.spans import Span, Teller, Trace, resource_of

TIMEOUT_S: Final = 5.0

_FLAGS: Final = TraceFlags(TraceFlags.SAMPLED)
_SCOPE: Final = InstrumentationScope("mlplatform.telemetry")
_ERROR: Final = Status(StatusCode.ERROR)
_UNSET: Final = Status(StatusCode.UNSET)


def exporter(endpoint: str) -> OTLPSpanExporter:
    """The SDK's, for a collector at `http://host:port`."""
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # whoever sends says it once
    return OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=TIMEOUT_S)


class OtlpSender:
    """Sends to a collector.

    Args:
        endpoint: "http://host:port"; spans go to its /v1/traces.
        teller: whose spans they are where they do not say.
    """

    most_a_second = 200

    def __init__(self, endpoint: str, teller: Teller) -> None:
        self._teller = teller
        self._resources: dict[Teller, Resource] = {}
        self._exporter = exporter(endpoint)

    def send(self, traces: Sequence[Trace]) -> bool:
        spans = [span for trace in traces for span in self.readable(trace)]
        return self._exporter.export(spans) is SpanExportResult.SUCCESS

    def close(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def readable(self, trace: Trace) -> Iterator[ReadableSpan]:
        """The spans as the SDK's exporter takes them."""
        trace_id, wall_ns = int(trace.trace_id, 16), time.time_ns() - time.monotonic_ns()
        for number, span in enumerate(trace.spans):
            is_remote = trace.has_remote_parent and not number
            yield self._one(trace_id, span, wall_ns, is_remote=is_remote)

    def _one(self, trace_id: int, span: Span, wall_ns: int, *, is_remote: bool) -> ReadableSpan:
        parent = None
        if span.parent_id is not None:
            parent = SpanContext(trace_id, int(span.parent_id, 16), is_remote, _FLAGS)
        return ReadableSpan(
            span.name,
            context=SpanContext(trace_id, int(span.span_id, 16), False, _FLAGS),
            parent=parent,
            resource=self._resource(span.of or self._teller),
            attributes={a.name: value for a, value in span.attributes.items() if value is not None},
            links=[Link(_context(*link)) for link in span.links],
            kind=SpanKind[span.kind.kind],
            status=_ERROR if span.is_error else _UNSET,
            start_time=wall_ns + int(span.start_s * 1e9),
            end_time=wall_ns + int(span.end_s * 1e9),
            instrumentation_scope=_SCOPE,
        )

    def _resource(self, teller: Teller) -> Resource:
        found = self._resources.get(teller)
        if found is None:
            found = self._resources[teller] = Resource.create(dict(resource_of(teller)))
        return found


def _context(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), True, _FLAGS)
