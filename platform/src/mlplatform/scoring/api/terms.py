"""The terms of a request, from its headers: deadline, key, trace and version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mlplatform.model.definition import MAX_DEADLINE_MS, MIN_DEADLINE_MS
from mlplatform.model.routes import VERSION_HEADER
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.telemetry.context import TraceContext
from mlplatform.scoring.admission.clients import Client, way_to_scope
from mlplatform.scoring.arms.named_versions import SHOWN
from mlplatform.scoring.request.decision import Caller, RequestOutcome
from mlplatform.scoring.request.payloads import idempotency_key

_VERSION: Final = VERSION_HEADER.encode()


def terms(
    headers: Mapping[bytes, bytes],
    client: Client,
    model: str,
    *,
    started_s: float,
    deadline_ms: float,
    trace: TraceContext | None,
    finished: list[RequestOutcome] | None = None,
) -> Caller:
    """The terms that these headers ask for.

    Args:
        deadline_ms: the model's deadline, for a caller that names none.
        finished: list that receives the caller's decisions for their timings; None if nobody needs
            them.

    Raises:
        Problem: 422 with the name of the invalid header; 403 if the client may not name a version.
    """
    version = headers.get(_VERSION)
    timeout_ms = _timeout_ms(headers.get(b"x-request-timeout-ms"), deadline_ms)
    return Caller(
        client=client.name,
        started_s=started_s,
        deadline_s=started_s + timeout_ms / 1000,
        key=idempotency_key(headers.get(b"idempotency-key")),
        trace_id=trace.trace_id if trace else None,
        finished=finished,
        trace=trace,
        version=None if version is None else _version(version, client, model),
    )


def headers_of_version(headers: Mapping[bytes, bytes], version: str) -> Mapping[bytes, bytes]:
    """The headers with the version that the call itself names.

    Raises:
        Problem: 422 if they name another version.
    """
    named = version.encode()
    if headers.get(_VERSION, named) != named:
        detail = f"{VERSION_HEADER} names another version than the call, {version[:SHOWN]!r}"
        raise Problem(422, "invalid-header", detail, field=VERSION_HEADER)
    return {**headers, _VERSION: named}


def _version(header: bytes, client: Client, model: str) -> str:
    if not client.may(model, "any-version"):
        way = way_to_scope(client.name, "any-version", model)
        detail = f"{client.name} has no scope any-version on model {model!r}; {way}"
        raise Problem(403, "forbidden", detail, field=VERSION_HEADER)
    return header.decode("latin-1")


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
