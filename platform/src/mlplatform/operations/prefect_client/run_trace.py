"""The trace that a request to Prefect belongs to."""

from __future__ import annotations

import sys


def running_traceparent() -> str:
    """The traceparent of the running flow or task; empty in a command that imports no
    OpenTelemetry."""
    if "opentelemetry.sdk.trace" not in sys.modules:
        return ""
    from mlplatform.runtime.telemetry.flow_spans import current_traceparent  # imports OpenTelemetry

    return current_traceparent()
