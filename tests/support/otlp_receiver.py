"""A collector on this machine, as far as a sender of spans can tell: OTLP/HTTP into a list."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as it came over the wire, with the attributes of its resource."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    resource: dict[str, Any]
    is_error: bool
    links: list[tuple[str, str]]


@dataclass
class OtlpReceiver:
    """Answers `status` and keeps what it took."""

    url: str
    status: int = 200
    spans: list[ReceivedSpan] = field(default_factory=list)

    def take(self, body: bytes) -> None:
        request = export_request(body)
        for sent in request.resource_spans:
            resource = _values(sent.resource.attributes)
            for scope in sent.scope_spans:
                self.spans += [_received(span, resource) for span in scope.spans]

    def roots(self) -> list[ReceivedSpan]:
        return roots(self.spans)

    def trace(self, trace_id: str) -> list[ReceivedSpan]:
        return [span for span in self.spans if span.trace_id == trace_id]


def export_request(body: bytes) -> ExportTraceServiceRequest:
    """OTLP's JSON as the message that it stands for.

    Its ids are in hexadecimal, where protobuf's own JSON form has base64. A name or a kind of
    value that the message does not know is an error.
    """
    found = json.loads(body)
    for part in found["resourceSpans"]:
        for span in (span for scope in part["scopeSpans"] for span in scope["spans"]):
            for each in (span, *span.get("links", ())):
                for name in {"traceId", "spanId", "parentSpanId"} & each.keys():
                    each[name] = base64.b64encode(bytes.fromhex(each[name])).decode()
    request = ExportTraceServiceRequest()
    json_format.ParseDict(found, request)
    return request


def roots(spans: list[ReceivedSpan]) -> list[ReceivedSpan]:
    """Those of whole requests to a gateway, by the kind (server) and the process."""
    servers = (span for span in spans if span.kind == 2)
    return [s for s in servers if s.resource["service.name"] == "mlplatform-gateway"]


def _received(span: Any, resource: dict[str, Any]) -> ReceivedSpan:
    return ReceivedSpan(
        span.name,
        span.kind,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _values(span.attributes),
        resource,
        span.status.code == 2,
        [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}


@contextmanager
def otlp_receiver() -> Iterator[OtlpReceiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            is_json = self.headers["content-type"] == "application/json"
            status = receiver.status if self.path == "/v1/traces" and is_json else 404
            if status == 200:
                receiver.take(body)
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = OtlpReceiver(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
