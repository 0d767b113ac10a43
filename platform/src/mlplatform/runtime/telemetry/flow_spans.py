"""Spans of flow runs: Prefect makes them, and those that signals.py lists are stored.

Prefect puts parameters' types, messages of states and texts of exceptions into its spans; whatever
is not listed is left out here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Final

from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, StatusCode, TraceFlags

from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.telemetry.context import trace_context
from mlplatform.runtime.telemetry.export import TraceSender
from mlplatform.runtime.telemetry.signals import Attribute
from mlplatform.runtime.telemetry.spans import Attributes, Link, Span, Trace

HEADER: Final = "traceparent"
_LISTED: Final[tuple[Attribute, ...]] = (signals.RUN_ID, signals.RUN_TYPE)


def install(sender: TraceSender) -> None:
    """Send the spans of this process to a sender, at the end of the process at the latest."""
    trace.set_tracer_provider(provider(sender))


def provider(sender: TraceSender) -> TracerProvider:
    """A provider of tracers whose spans go to a sender."""
    made = TracerProvider()
    made.add_span_processor(BatchSpanProcessor(_PlatformExporter(sender)))
    return made


def current_traceparent() -> str:
    """The traceparent of the span in which this code runs, to pass on with a request; empty if
    there is none."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier.get(HEADER, "")


def link_to(traceparent: str) -> None:
    """Link the span in which this code runs with the span that asked for it, if there is one."""
    context = trace_context({b"traceparent": traceparent.encode()})
    if context is not None and context.parent_id is not None:
        at = SpanContext(
            int(context.trace_id, 16),
            int(context.parent_id, 16),
            True,
            TraceFlags(context.is_sampled),
        )
        trace.get_current_span().add_link(at)


class CurrentTrace(logging.Filter):
    """Adds the present trace to a log line."""

    def filter(self, record: logging.LogRecord) -> bool:
        context = trace.get_current_span().get_span_context()
        if context.is_valid and not hasattr(record, "trace_id"):
            record.trace_id = f"{context.trace_id:032x}"
        return True


class _PlatformExporter(SpanExporter):
    """Turns spans of the SDK into the platform's own."""

    def __init__(self, sender: TraceSender) -> None:
        self._sender = sender

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        taken = self._sender.send([_trace(span) for span in spans if span.context is not None])
        return SpanExportResult.SUCCESS if taken else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self._sender.close()


def _trace(span: ReadableSpan) -> Trace:
    assert span.context is not None
    parent, found = span.parent, span.attributes or {}
    attributes: Attributes = {a: str(found[a.name]) for a in _LISTED if a.name in found}
    is_task = found.get(signals.RUN_TYPE.name) == "task"
    wall_ns = time.time_ns() - time.monotonic_ns()
    made = Span(
        signals.TASK_SPAN if is_task else signals.FLOW_SPAN,
        span.name,
        f"{span.context.span_id:016x}",
        f"{parent.span_id:016x}" if parent is not None else None,
        ((span.start_time or 0) - wall_ns) / 1e9,
        ((span.end_time or 0) - wall_ns) / 1e9,
        attributes,
        span.status.status_code is StatusCode.ERROR,
        tuple(
            Link(f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}")
            for link in span.links
        ),
    )
    is_remote = parent is not None and parent.is_remote
    return Trace(f"{span.context.trace_id:032x}", (made,), has_remote_parent=is_remote)
