"""Spans on disk: as a collector would read them, bounded, and found again."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mlplatform.telemetry import retention, signals, span_files
from mlplatform.telemetry.span_files import FileSender, encoded, find
from mlplatform.telemetry.spans import Link, Span, Teller, Trace

US = Teller("gateway", "gateway-0")
OTHER = Teller("predictor", "fraud-v1-0a0b0c0d")
ROOT, INNER = "1" * 16, "2" * 16


def trace(number: int = 1) -> Trace:
    """One span of ours and one of a predictor's."""
    own = {signals.HTTP_STATUS: 200, signals.MODEL_NAME: "fraud", signals.ERROR_TYPE: None}
    told = {signals.QUEUE_MS: 0.25}
    links = (Link("a" * 32, "b" * 16),)
    return Trace(
        f"{number:032x}",
        (
            Span(signals.REQUEST_SPAN, "score fraud", ROOT, None, 1.0, 2.0, own, True, links),
            Span(signals.INFER_SPAN, "infer x", INNER, ROOT, 1.2, 1.4, told, of=OTHER),
        ),
    )


def test_a_line_is_what_a_collector_reads() -> None:
    line = json_format.Parse(_as_protobuf_json(encoded(trace(), US)), ExportTraceServiceRequest())
    first, second = line.resource_spans
    assert [a.value.string_value for a in first.resource.attributes] == [
        "mlplatform-gateway", "gateway-0",
    ]  # fmt: skip
    (root,) = first.scope_spans[0].spans
    assert (root.name, root.kind, root.status.code) == ("score fraud", 2, 2)
    assert root.end_time_unix_nano - root.start_time_unix_nano == 1_000_000_000
    assert {a.key for a in root.attributes} == {
        "http.response.status_code",
        "mlplatform.model.name",
    }
    assert second.resource.attributes[0].value.string_value == "mlplatform-predictor"


def _as_protobuf_json(line: bytes) -> str:
    """OTLP's JSON has ids in hexadecimal, protobuf's in base64: ids are left out here."""
    import msgspec

    found = msgspec.json.decode(line)
    for part in found["resourceSpans"]:
        for span in part["scopeSpans"][0]["spans"]:
            for name in ("traceId", "spanId", "parentSpanId", "links"):
                span.pop(name, None)
    return msgspec.json.encode(found).decode()


def test_what_is_written_is_found_by_trace_and_by_link(tmp_path: Path) -> None:
    sender = FileSender(tmp_path, US)
    assert sender.send([trace(1), trace(2)])
    root, inner = find(tmp_path, [f"{2:032x}"])
    assert (root.trace_id, root.span_id, root.parent_id) == (f"{2:032x}", ROOT, None)
    assert (root.name, root.kind, root.is_error) == ("score fraud", "SERVER", True)
    assert root.attributes == {"http.response.status_code": 200, "mlplatform.model.name": "fraud"}
    assert root.links == (("a" * 32, "b" * 16),)
    assert (inner.service, inner.instance) == ("mlplatform-predictor", OTHER.instance)
    assert inner.attributes == {"mlplatform.predictor.queue_ms": 0.25}
    assert root.start_ns < inner.start_ns < inner.end_ns < root.end_ns
    assert len(list(find(tmp_path, ["b" * 16]))) == 4
    assert list(find(tmp_path, ["c" * 32])) == []


def test_files_are_private_bounded_and_an_end_that_was_cut_off_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "TRACES", retention.Retention(20_000, 3))
    sender = FileSender(tmp_path / "traces", US)
    for number in range(200):
        sender.send([trace(number + 1)])
    files = sorted((tmp_path / "traces").iterdir())
    assert 2 <= len(files) <= 3
    assert all(file.stat().st_size < 22_000 for file in files)
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    assert len(list(find(tmp_path / "traces", [f"{200:032x}"]))) == 2
    span_files.append(tmp_path / "traces" / "gateway-0.jsonl", b'{"resourceSpans":[{"x' + b"\n")
    sender.send([trace(7_777)])
    assert len(list(find(tmp_path / "traces", [f"{7_777:032x}"]))) == 2


def test_a_folder_that_is_not_there_has_no_spans(tmp_path: Path) -> None:
    assert not os.path.exists(tmp_path / "none")
    assert list(find(tmp_path / "none", ["a"])) == []
