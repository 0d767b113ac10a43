"""Spans on disk: the traces of a machine without a collector, and how they are found.

A line is one ExportTraceServiceRequest in OTLP's JSON form, so that a collector can read it too.
Source: OpenTelemetry Protocol 1.x, JSON Protobuf encoding and File Exporter.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import msgspec

from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.storage.files import append_lines
from mlplatform.runtime.telemetry import retention
from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter
from mlplatform.runtime.telemetry.spans import ProcessIdentity, Span, Trace, Value, resource_of

log = logging.getLogger(__name__)
log.addFilter(RateLimitFilter())

_KINDS: Final = {"INTERNAL": 1, "SERVER": 2, "CLIENT": 3, "PRODUCER": 4, "CONSUMER": 5}
_ERROR: Final = {"code": 2}
_LOCAL, _REMOTE = 0x101, 0x301
"""Flags of a span: sampled, with a parent of this process or of another one."""
_SCOPE: Final = {"name": "mlplatform.telemetry"}
_encode = msgspec.json.Encoder().encode


class FileSender:
    """Appends spans to two files of the process's own, each of bounded size.

    One of them is for spans of which there are many alike, so that a flood of them does not push
    out rarer ones.

    Args:
        identity: process of the spans that name none themselves; the file has its names.
    """

    def __init__(self, folder: Path, identity: ProcessIdentity) -> None:
        self._identity = identity
        name = f"{identity.process}-{identity.instance}"
        self._path, self._spare = folder / f"{name}.jsonl", folder / f"{name}.spare.jsonl"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def send(self, traces: Sequence[Trace]) -> bool:
        for path, is_spare in ((self._path, False), (self._spare, True)):
            lines = [encoded([t], self._identity) + b"\n" for t in traces if t.is_spare == is_spare]
            try:
                if lines:
                    append(path, b"".join(lines))
            except OSError as error:
                log.warning("no spans can be added to %s: %s", path, error.strerror)
                return False
        return True

    def close(self) -> None:
        """Do nothing: a file is open only while it is written to."""


def append(path: Path, lines: bytes) -> None:
    """Add lines to a file that only its owner can read; old lines are rotated out.

    Raises:
        OSError: not all of them are in the file.
    """
    if append_lines(path, lines) >= retention.TRACES.file_bytes:
        retention.rotate(path, retention.TRACES)


def encoded(traces: Sequence[Trace], identity: ProcessIdentity) -> bytes:
    """An ExportTraceServiceRequest, on one line without its end.

    Args:
        identity: process of the spans that name none themselves.
    """
    wall_ns = time.time_ns() - time.monotonic_ns()
    parts = [part for trace in traces for part in _parts(trace, identity, wall_ns)]
    return _encode({"resourceSpans": parts})


def _parts(trace: Trace, identity: ProcessIdentity, wall_ns: int) -> Iterator[dict[str, Any]]:
    """A trace's spans, grouped by their process."""
    for of, spans in itertools.groupby(trace.spans, lambda span: span.of or identity):
        yield {
            "resource": _resource(of),
            "scopeSpans": [{"scope": _SCOPE, "spans": [_span(trace, s, wall_ns) for s in spans]}],
        }


def _span(trace: Trace, span: Span, wall_ns: int) -> dict[str, Any]:
    is_remote = trace.has_remote_parent and span is trace.spans[0]
    made = {
        "traceId": trace.trace_id,
        "spanId": span.span_id,
        "name": span.name,
        "kind": _KINDS[span.kind.kind],
        "flags": _REMOTE if is_remote else _LOCAL,
        # OTLP's JSON has 64-bit numbers as text
        "startTimeUnixNano": str(wall_ns + int(span.start_s * 1e9)),
        "endTimeUnixNano": str(wall_ns + int(span.end_s * 1e9)),
        "attributes": [
            {"key": attribute.name, "value": _value(value)}
            for attribute, value in span.attributes.items()
            if value is not None
        ],
    }
    if span.parent_id is not None:
        made["parentSpanId"] = span.parent_id
    if span.links:
        made["links"] = [{"traceId": link.trace_id, "spanId": link.span_id} for link in span.links]
    if span.is_error:
        made["status"] = _ERROR
    return made


@lru_cache(maxsize=256)  # spans come from few processes
def _resource(of: ProcessIdentity) -> dict[str, Any]:
    named = resource_of(of)
    return {"attributes": [{"key": name, "value": _value(named[name])} for name in named]}


def _value(value: Value) -> dict[str, Any]:
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value}


class StoredSpan(msgspec.Struct, frozen=True, kw_only=True):
    """A span as it was read back.

    Args:
        service, instance: name and instance of the process that did the work.
        start_ns, end_ns: wall times, epoch nanoseconds.
        links: trace and span of each span to which it refers.
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    kind: str
    service: str
    instance: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Value]
    is_error: bool
    links: tuple[tuple[str, str], ...]


def find(folder: Path, wanted: Iterable[str]) -> Iterator[StoredSpan]:
    """The spans on disk of every trace whose line has one of these texts: whole ids."""
    texts = [text.encode() for text in wanted]
    for path in sorted(folder.glob("*.jsonl*")):
        with path.open("rb") as file:
            for line in file:
                if any(text in line for text in texts):
                    yield from _read(line)


_NAMES: Final = {number: name for name, number in _KINDS.items()}


def _read(line: bytes) -> Iterator[StoredSpan]:
    try:
        found = msgspec.json.decode(line)
    except NOT_JSON:
        return  # a killed process left a part of a line
    for part in found["resourceSpans"]:
        resource = _read_attributes(part["resource"])
        for scope in part["scopeSpans"]:
            for span in scope["spans"]:
                yield _stored_span(span, resource)


def _stored_span(span: dict[str, Any], resource: dict[str, Value]) -> StoredSpan:
    return StoredSpan(
        trace_id=span["traceId"],
        span_id=span["spanId"],
        parent_id=span.get("parentSpanId") or None,
        name=span["name"],
        kind=_NAMES.get(span.get("kind", 0), "INTERNAL"),
        service=str(resource.get("service.name", "")),
        instance=str(resource.get("service.instance.id", "")),
        start_ns=int(span["startTimeUnixNano"]),
        end_ns=int(span["endTimeUnixNano"]),
        attributes=_read_attributes(span),
        is_error=span.get("status", {}).get("code") == _ERROR["code"],
        links=tuple((link["traceId"], link["spanId"]) for link in span.get("links", ())),
    )


def _read_attributes(of: dict[str, Any]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for attribute in of.get("attributes", ()):
        ((kind, value),) = attribute["value"].items()
        found[attribute["key"]] = int(value) if kind == "intValue" else value
    return found
