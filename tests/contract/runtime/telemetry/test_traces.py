"""Spans of a running gateway at a collector, and its log lines."""

from __future__ import annotations

import json
import logging
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from prometheus_client.openmetrics import parser as openmetrics

from mlplatform.model.folders import personal_fields
from mlplatform.model.routes import Arm
from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.telemetry.export import MAX_WAITING, MOST_A_POLL, SpanExport
from mlplatform.runtime.telemetry.logs import EXTRA, JsonLines
from mlplatform.runtime.telemetry.otlp import OtlpSender
from mlplatform.runtime.telemetry.spans import ProcessIdentity, Span, Trace, new_span_id
from mlplatform.scoring.protos import scoring_pb2 as pb
from support.otlp_receiver import OtlpReceiver, ReceivedSpan, otlp_receiver, roots
from support.ports import free_port
from support.scoring_world import MODEL, ScoringWorld, payment, wait_for

KEPT_FOR = signals.KEPT_FOR.name
CUSTOMER = 8_675_309_774_412  # long enough to stand in no time, port or process id by chance
"""So unlike any other number that a line with it would be found."""


class TracedWorld(ScoringWorld):
    """A world whose gateway sends its spans to `receiver`."""

    receiver: OtlpReceiver
    arm: Arm
    grpc_port: int


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TracedWorld]:
    with otlp_receiver() as receiver:
        made = TracedWorld(tmp_path_factory.mktemp("world"))
        made.receiver, made.grpc_port = receiver, free_port()
        try:
            made.arm = made.deploy(1)
            made.promote(made.arm)
            made.start_gateway(
                MLPLATFORM_OTLP_ENDPOINT=receiver.url,
                MLPLATFORM_TRACE_SHARE="0",
                MLPLATFORM_GATEWAY_GRPC_PORT=str(made.grpc_port),
            )
            yield made
        finally:
            made.close()


@pytest.fixture
def client(world: TracedWorld) -> Iterator[httpx.Client]:
    with world.client() as made:
        yield made


def parent(flags: str = "01") -> tuple[str, str, dict[str, str]]:
    """A caller's trace id, its span, and the header that names both."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return trace_id, span_id, {"traceparent": f"00-{trace_id}-{span_id}-{flags}"}


def root_of(spans: list[ReceivedSpan]) -> ReceivedSpan:
    """The gateway's own span of a request."""
    (root,) = roots(spans)
    return root


def spans_of(world: TracedWorld, trace_id: str) -> list[ReceivedSpan]:
    """Of a trace, or of the decision whose id begins with the trace's."""
    found: list[ReceivedSpan] = wait_for(lambda: world.receiver.trace(trace_id[:32]))
    return found


def test_a_trace_that_its_caller_samples_has_spans_that_fit_into_each_other(
    world: TracedWorld, client: httpx.Client
) -> None:
    trace_id, caller_id, headers = parent()
    answer = client.post("/score", json=payment(), headers=headers)
    spans = spans_of(world, trace_id)
    root = root_of(spans)
    assert root.name == "score fraud"
    assert root.parent_id == caller_id
    assert answer.headers["traceparent"] == f"00-{trace_id}-{root.span_id}-01"
    assert (
        root.attributes.items()
        >= {
            "http.request.method": "POST",
            "http.route": f"/api/v1/models/{MODEL}/score",
            "http.response.status_code": 200,
            "mlplatform.model.name": MODEL,
            "mlplatform.model.version": 1,
            "mlplatform.decision.id": answer.json()["decision_id"],
            "mlplatform.route.arm": "champion",
        }.items()
    )
    assert root.resource.items() >= {
        "service.name": "mlplatform-gateway", "service.instance.id": "gateway-0",
    }.items()  # fmt: skip
    inner = {span.name: span for span in spans if span is not root}
    infer = inner.pop(f"infer {world.arm.service}")
    assert set(inner) == {"features", "predict champion", "record"}
    for span in inner.values():
        assert span.parent_id == root.span_id
        assert root.start_ns <= span.start_ns <= span.end_ns <= root.end_ns
    predict = inner["predict champion"]
    assert (infer.kind, infer.parent_id) == (2, predict.span_id)
    assert predict.start_ns < infer.start_ns < infer.end_ns < predict.end_ns
    assert infer.resource.items() >= {
        "service.name": "mlplatform-predictor", "service.instance.id": world.arm.service,
    }.items()  # fmt: skip
    took_ms = (predict.end_ns - predict.start_ns) / 1e6
    assert 0 < infer.attributes["mlplatform.predictor.compute_ms"] < took_ms
    assert abs(root.end_ns - time.time_ns()) < 30e9


def test_only_listed_names_and_attributes_are_sent(
    world: TracedWorld, client: httpx.Client
) -> None:
    trace_id, _, headers = parent()
    client.post("/score", json=payment(customer=CUSTOMER), headers=headers)
    client.get("/nowhere/secret-path", headers=headers)
    wait_for(lambda: len(roots(world.receiver.trace(trace_id))) == 2)
    listed = {attribute.name for attribute in signals.ATTRIBUTES}
    for span in world.receiver.spans:
        assert set(span.attributes) <= listed
    assert str(CUSTOMER) not in repr(world.receiver.spans)
    assert "secret-path" not in repr(world.receiver.spans)


def test_the_trace_stands_in_the_record_or_has_the_decisions_id(
    world: TracedWorld, client: httpx.Client
) -> None:
    trace_id, _, headers = parent("00")
    told = client.post("/score", json=payment(), headers=headers).json()["decision_id"]
    with world.frozen_predictor(world.arm):
        alone = client.post("/score", json=payment()).json()["decision_id"]
    records = {row["decision_id"]: row["payload"] for row in world.records("decision")}
    assert records[told]["trace_id"] == trace_id
    assert "trace_id" not in records[alone]
    root = root_of(spans_of(world, alone))
    assert root.parent_id == ""
    assert root.attributes["mlplatform.trace.kept_for"] == "degraded"
    reasons = {r.attributes[KEPT_FOR] for r in roots(world.receiver.trace(trace_id))}
    assert reasons <= {"slow"}  # which a busy machine is at times


def test_a_degraded_answer_says_which_predictor_failed_and_why(
    world: TracedWorld, client: httpx.Client
) -> None:
    trace_id, _, headers = parent("00")
    with world.frozen_predictor(world.arm):
        answer = client.post("/score", json=payment(), headers=headers).json()
    spans = spans_of(world, trace_id)
    root = root_of(spans)
    assert root.attributes["mlplatform.degraded.reason"] == answer["degraded_reason"]
    asked = [span for span in spans if span.name == "predict champion"]
    if answer["degraded_reason"] != "breaker_open":
        assert [span.is_error for span in asked] == [True]
        assert asked[0].attributes == {"error.type": answer["degraded_reason"]}


def test_a_request_that_nothing_speaks_for_leaves_no_spans(
    world: TracedWorld, client: httpx.Client
) -> None:
    before = len(world.receiver.spans)
    wait_for(lambda: client.post("/score", json=payment()).json()["degraded"] is False, 60.0)
    client.post("/score", json={})
    trace_id, _, headers = parent()
    client.post("/score", json=payment(), headers=headers)
    spans_of(world, trace_id)
    new = Counter(
        s.attributes.get("mlplatform.trace.kept_for") for s in roots(world.receiver.spans[before:])
    )
    assert set(new) <= {"caller", "slow", "degraded"}
    assert new["caller"] == 1


def test_a_batch_has_a_span_for_each_decision(world: TracedWorld, client: httpx.Client) -> None:
    trace_id, _, headers = parent()
    items = [payment(customer=number) for number in range(3)]
    client.post("/score:batch", json={"requests": items}, headers=headers)
    spans = spans_of(world, trace_id)
    root = root_of(spans)
    decisions = [span for span in spans if span.name == "decide"]
    assert root.name == "score_batch fraud"
    assert [span.parent_id for span in decisions] == [root.span_id] * 3
    ids = {span.span_id for span in decisions}
    asked = {span.span_id for span in spans if span.name.startswith("predict")}
    assert {span.parent_id for span in spans} - ids - asked - {root.span_id} == {root.parent_id}


def test_the_gateway_counts_what_it_sent(world: TracedWorld, client: httpx.Client) -> None:
    trace_id, _, headers = parent()
    client.post("/score", json=payment(), headers=headers)
    spans_of(world, trace_id)

    def counted() -> bool:
        text = httpx.get(f"{world.url}/metrics", headers=world.headers).text
        line = 'mlplatform_gateway_traces_total{outcome="exported"} '
        sent = float(text.split(line)[1].split("\n")[0])
        return sent == len(world.receiver.roots())

    wait_for(counted)


def test_every_line_of_every_process_is_json_with_listed_fields_and_without_personal_data(
    world: TracedWorld, client: httpx.Client
) -> None:
    client.post("/score", json=payment(customer=CUSTOMER))
    client.post("/score", json=payment(customer=CUSTOMER, amount="much"))
    for process in ("gateway", "predictor"):
        text = (world.home.logs / f"{process}.log").read_text()
        assert str(CUSTOMER) not in text
        lines = [json.loads(line) for line in text.splitlines()]
        assert lines
        for line in lines:
            assert set(line) <= set(signals.LOG_FIELDS)
            assert line["process"] == process


def test_a_call_over_grpc_has_its_spans_too(world: TracedWorld) -> None:
    trace_id, caller_id, headers = parent()
    body = payment()
    fields = {name: pb.FieldValue(integer=body[name]) for name in ("customer_id", "terminal_id")}
    fields["amount"] = pb.FieldValue(number=body["amount"])
    request = pb.ScoreRequest(model=MODEL, fields=fields, event_time_ms=body["event_time"])
    sent = {"authorization": world.headers["Authorization"], **headers}
    with grpc.insecure_channel(f"127.0.0.1:{world.grpc_port}") as channel:
        call = channel.unary_unary("/mlplatform.scoring.v1.Scoring/Score")
        call(request.SerializeToString(), timeout=5.0, metadata=tuple(sent.items()))
    root = root_of(spans_of(world, trace_id))
    assert (root.name, root.parent_id) == ("grpc_Score fraud", caller_id)
    assert root.attributes["rpc.system"] == "grpc"


def test_answers_of_a_challenger_are_kept(world: TracedWorld, client: httpx.Client) -> None:
    world.shadow(world.deploy(2, offset=0.1))
    world.canary(50.0)
    arms = {}
    for customer in range(12):
        answer = client.post("/score", json=payment(customer=customer)).json()
        arms[answer["decision_id"]] = answer["route"]
    challenged = {key for key, arm in arms.items() if arm == "challenger"}
    assert 0 < len(challenged) < 12
    wait_for(lambda: all(world.receiver.trace(key[:32]) for key in challenged))
    for key in challenged:
        root = root_of(world.receiver.trace(key[:32]))
        assert root.attributes["mlplatform.route.arm"] == "challenger"
        assert root.attributes["mlplatform.trace.kept_for"] in ("canary", "slow", "degraded")


def collected(receiver: OtlpReceiver) -> tuple[SpanExport[int], Counter[str]]:
    """An export of numbers, each of one span, and how many met which end."""
    ends: Counter[str] = Counter()

    def build(number: int) -> Trace:
        kind = signals.RECORD_SPAN
        span = Span(kind, kind.name, new_span_id(), None, 1.0, 2.0, {signals.HTTP_STATUS: number})
        return Trace(f"{number + 1:032x}", (span,))

    def count(end: str, number: int) -> None:
        ends[end] += number

    return SpanExport(
        OtlpSender(receiver.url, ProcessIdentity("gateway", "test")), build, count
    ), ends


def test_what_waits_too_long_is_dropped_and_counted_and_the_rest_arrives() -> None:
    with otlp_receiver() as receiver:
        export, ends = collected(receiver)
        for number in range(MAX_WAITING + 50):
            export.offer(number)
        assert ends == {"dropped": 50}
        export.start()
        wait_for(lambda: ends["exported"] >= MOST_A_POLL)
        export.stop()
        assert ends["exported"] == len(receiver.spans)
        numbers = [span.attributes["http.response.status_code"] for span in receiver.spans]
        assert numbers == list(range(len(numbers)))


def test_a_collector_that_is_down_costs_counted_spans_and_holds_nothing_up() -> None:
    with otlp_receiver() as receiver:
        receiver.status = 400
        export, ends = collected(receiver)
        export.start()
        export.offer(1)
        wait_for(lambda: ends["failed"] == 1)
        receiver.status = 200
        export.offer(2)
        wait_for(lambda: ends["exported"] == 1)
        receiver.status = 503  # the sender tries again by itself, until its time is up
        export.offer(3)
        time.sleep(0.6)
        start_s = time.monotonic()
        export.stop()
        assert time.monotonic() - start_s < 4.0
        assert ends == {"failed": 2, "exported": 1}
        assert [span.attributes["http.response.status_code"] for span in receiver.spans] == [2]


def formatted(**changes: Any) -> dict[str, Any]:
    record = logging.LogRecord("a.b", logging.ERROR, "f.py", 1, "it %s", ("failed",), None)
    for name, value in changes.items():
        setattr(record, name, value)
    line: dict[str, Any] = json.loads(
        JsonLines("gateway", personal_fields(), "gateway-0").format(record)
    )
    return line


def test_a_log_line_has_the_names_that_it_was_given_and_nothing_else_of_its_record() -> None:
    line = formatted(trace_id="t", decision_id="d", model=None, customer="ann")
    assert set(line) == {
        "time", "level", "process", "instance", "pid", "logger", "message", "trace_id",
        "decision_id",
    }  # fmt: skip
    assert (line["level"], line["message"], line["trace_id"]) == ("error", "it failed", "t")
    assert set(EXTRA.values()) <= set(signals.LOG_FIELDS)


def test_a_line_stays_one_line_with_the_chain_of_errors() -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer\nline") from error
    except ValueError:
        line = formatted(exc_info=sys.exc_info())
    assert "KeyError: 'inner'" in line["error"]
    assert "outer\nline" in line["error"]


def test_every_attribute_and_span_is_listed_once() -> None:
    names = [attribute.name for attribute in signals.ATTRIBUTES]
    assert len(set(names)) == len(names)
    assert len({span.name for span in signals.SPANS}) == len(signals.SPANS)


def test_exemplars_lead_from_the_latency_to_traces_that_were_kept(
    world: TracedWorld, client: httpx.Client
) -> None:
    trace_id, _, headers = parent()
    client.post("/score", json=payment(), headers=headers)
    spans_of(world, trace_id)
    wanted = {**world.headers, "Accept": "application/openmetrics-text; version=1.0.0"}
    answer = httpx.get(f"{world.url}/metrics", headers=wanted)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    families = {f.name: f for f in openmetrics.text_string_to_metric_families(answer.text)}
    shown = [s.exemplar for s in families["mlplatform_gateway_latency_seconds"].samples]
    found = {exemplar.labels["trace_id"]: exemplar for exemplar in shown if exemplar}
    assert trace_id in found
    assert all(world.receiver.trace(each) for each in found)
    assert 0 < found[trace_id].value < 1
    plain = httpx.get(f"{world.url}/metrics", headers=world.headers)
    assert plain.headers["content-type"].startswith("text/plain")
    assert trace_id not in plain.text
