"""The terms on which a request is answered: deadline, idempotency key and trace, of its headers."""

from __future__ import annotations

from collections.abc import Mapping

from mlplatform.model.definition import MAX_DEADLINE_MS, MIN_DEADLINE_MS
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.telemetry.context import TraceContext
from mlplatform.scoring.request.decision import Caller, RequestOutcome
from mlplatform.scoring.request.payloads import idempotency_key


def terms(
    headers: Mapping[bytes, bytes],
    client: str,
    *,
    started_s: float,
    deadline_ms: float,
    trace: TraceContext | None,
    finished: list[RequestOutcome] | None = None,
) -> Caller:
    """The terms that these headers ask for.

    Args:
        deadline_ms: the model's, for a caller that names none.
        finished: gets what is decided for the caller, where somebody wants its timings.

    Raises:
        Problem: 422 names the header.
    """
    timeout_ms = _timeout_ms(headers.get(b"x-request-timeout-ms"), deadline_ms)
    return Caller(
        client=client,
        started_s=started_s,
        deadline_s=started_s + timeout_ms / 1000,
        key=idempotency_key(headers.get(b"idempotency-key")),
        trace_id=trace.trace_id if trace else None,
        finished=finished,
        trace=trace,
    )


def _timeout_ms(header: bytes | None, default_ms: float) -> float:
    if header is None:
        return default_ms
    if (
        not header.isdigit()
        or len(header) > 5
        or not MIN_DEADLINE_MS <= int(header) <= MAX_DEADLINE_MS
    ):
        detail = f"X-Request-Timeout-Ms must be {MIN_DEADLINE_MS} to {MAX_DEADLINE_MS}"
        raise Problem(422, "invalid-header", detail, field="X-Request-Timeout-Ms")
    return float(header)
