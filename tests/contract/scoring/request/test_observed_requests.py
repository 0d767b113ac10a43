"""A slow, a failed, a degraded, a challenger's and a late request: found on disk with all spans.

From the decision's id one comes to its trace, lines and record, and back. And of all that every
process told, nothing holds what the requests said of a person.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator

import httpx
import msgspec
import pytest

from mlplatform.commands.decisions.trace import TraceReport
from mlplatform.model.routes import Arm
from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.telemetry.span_files import StoredSpan
from support.observed_world import DEADLINE, FIRST_CUSTOMER, ObservedWorld
from support.scoring_world import MODEL, wait_for

ARM, KEPT_FOR = signals.ROUTE_ARM.name, signals.KEPT_FOR.name


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObservedWorld]:
    made = ObservedWorld(tmp_path_factory.mktemp("world"))
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def client(world: ObservedWorld) -> Iterator[httpx.Client]:
    with world.client() as made:
        yield made


def root_of(found: TraceReport) -> StoredSpan:
    """The request's own span."""
    (root,) = (span for span in found.spans if span.kind == "SERVER" and span.parent_id is None)
    return root


def complete(world: ObservedWorld, arm: Arm, step: str) -> tuple[str, ...]:
    """The spans of a decision that a predictor gave the score for."""
    return f"score {MODEL}", "features", f"predict {step}", f"infer {arm.service}", "record"


def test_a_slow_request_is_found_with_all_spans(world: ObservedWorld, client: httpx.Client) -> None:
    with world.frozen_predictor(world.arm):
        threading.Timer(0.3, world.thaw).start()
        answer = client.post("/score", json=world.payment(), headers=DEADLINE).json()
    assert not answer["degraded"]
    found = world.found(answer["decision_id"], *complete(world, world.arm, "champion"))
    root = root_of(found)
    assert root.attributes[KEPT_FOR] == "slow"
    assert root.trace_id == answer["decision_id"][:32]
    predict = next(span for span in found.spans if span.name == "predict champion")
    assert (predict.end_ns - predict.start_ns) / 1e6 > 200
    (record,) = found.decisions
    assert (record["kind"], record["decision_id"]) == ("decision", answer["decision_id"])


def test_a_degraded_request_is_found_with_all_spans(
    world: ObservedWorld, client: httpx.Client
) -> None:
    with world.frozen_predictor(world.arm):
        timeout = {"X-Request-Timeout-Ms": "500"}
        answer = client.post("/score", json=world.payment(), headers=timeout).json()
    assert answer["degraded"]
    found = world.found(answer["decision_id"], f"score {MODEL}", "features", "record")
    root = root_of(found)
    assert root.attributes[KEPT_FOR] == "degraded"
    if answer["degraded_reason"] == "deadline":
        (asked,) = (span for span in found.spans if span.name == "predict champion")
        assert asked.is_error


def test_a_failed_request_is_found_with_all_spans_and_its_line(
    world: ObservedWorld, client: httpx.Client
) -> None:
    trace_id = world.unrecorded(client)
    names = (*complete(world, world.arm, "champion")[:-1], "record")
    found = world.found(trace_id, *names)
    failed = [s for s in found.spans if s.name == f"score {MODEL}" and s.is_error]
    assert failed
    assert {span.attributes[KEPT_FOR] for span in failed} == {"error"}
    assert "error.type" in failed[0].attributes
    lost = [span for span in found.spans if span.name == "record" and span.is_error]
    assert {span.attributes["error.type"] for span in lost} == {"unrecorded"}
    # of many alike a line is written from time to time: it leads to the trace of its own request
    text = (world.home.logs / "gateway.log").read_text()
    lines = [line for line in text.splitlines() if "a decision was not recorded" in line]
    told = json.loads(lines[0])
    back = world.found(told["trace_id"], "record")
    assert told in back.lines
    assert told["decision_id"] in text


def test_what_was_accepted_is_linked_with_what_was_decided_later(
    world: ObservedWorld, client: httpx.Client
) -> None:
    trace_id, caller = f"{time.time_ns():032x}", "c" * 16
    headers = {"traceparent": f"00-{trace_id}-{caller}-01"}
    told = client.post("/score:async", json=world.payment(), headers=headers).json()

    def is_decided() -> bool:
        return any(r["decision_id"] == told["decision_id"] for r in world.records("decision"))

    # the gateway is held up meanwhile, so that the worker's batch is slow or degraded, and kept
    with world.frozen_predictor(world.arm):
        wait_for(is_decided)
    accepted = f"send {MODEL}.requests"
    found = world.found(told["decision_id"], accepted, "decide", f"process {MODEL}.requests")
    by_name = {span.name: span for span in found.spans}
    place = (trace_id, by_name[accepted].span_id)
    assert by_name[accepted].trace_id == trace_id
    assert place in by_name["decide"].links
    assert place in by_name[f"process {MODEL}.requests"].links
    assert by_name["decide"].trace_id == by_name[f"process {MODEL}.requests"].trace_id != trace_id
    asked = by_name["ask gateway"]
    assert by_name[f"score_accepted {MODEL}"].parent_id == asked.span_id
    assert {record["kind"] for record in found.decisions} == {"accepted", "decision"}
    assert {record["trace_id"] for record in found.decisions} == {trace_id}


def test_a_request_of_the_challenger_is_found_with_all_spans(
    world: ObservedWorld, client: httpx.Client
) -> None:
    challenger = world.deploy(2, offset=0.01)
    world.shadow(challenger)
    world.canary(50.0)
    answer = world.challengers(client)
    found = world.found(answer["decision_id"], *complete(world, challenger, "challenger"))
    root = root_of(found)
    assert root.attributes[ARM] == "challenger"
    assert root.attributes[KEPT_FOR] in ("canary", "slow")
    assert answer["decision_id"] in json.dumps(msgspec.to_builtins(found))


def metrics_of(world: ObservedWorld) -> dict[str, str]:
    """Of the gateway and each predictor, as Prometheus asks for them: with exemplars."""
    told = {"gateway": _metrics(world.url, world.headers["Authorization"])}
    assert 'trace_id="' in told["gateway"]
    for service in world.predictors:
        address = json.loads((world.home.run / f"{service}.address.json").read_bytes())
        token = world.home.predictor_token.read_text()
        told[service] = _metrics(f"http://127.0.0.1:{address['port']}", f"Bearer {token}")
    return {f"metrics of {name}": text for name, text in told.items()}


def _metrics(url: str, authorization: str) -> str:
    headers = {
        "Authorization": authorization,
        "Accept": "application/openmetrics-text; version=1.0.0",
    }
    return httpx.get(f"{url}/metrics", headers=headers).raise_for_status().text


def test_nothing_that_was_told_holds_what_a_request_said(
    world: ObservedWorld, client: httpx.Client
) -> None:
    """In all the tests above: lines and spans of every process, metrics of all but the worker."""
    strange = world.payment(amount="as much as 7123456000099", customer_id=FIRST_CUSTOMER + 99_999)
    assert client.post("/score", json=strange).status_code == 422
    wait_for(lambda: client.post("/score", json=world.payment()).status_code == 200)
    told = metrics_of(world)
    assert world.stop_gateway() == 0
    told |= {
        p.name: p.read_text() for p in (*world.home.logs.iterdir(), *world.home.traces.iterdir())
    }
    assert {
        "gateway.log",
        "worker.log",
        "gateway-gateway-0.jsonl",
    } <= set(told)
    assert any("decided by" in text for text in told.values())
    values = {str(body[name]) for body in world.sent for name in ("customer_id", "terminal_id")}
    amounts = {repr(body["amount"]) for body in world.sent}
    assert len(values) > 1000
    for name, text in told.items():
        for number in ("8675309", "7123456"):
            assert not re.search(rf"(?<!\d){number}", text), name  # digits of a time may be these
        assert not amounts & set(re.findall(r"\d+(?:\.\d+)?", text)), name
        if name.endswith(".log"):
            lines = [json.loads(line) for line in text.splitlines()]
            assert all(set(line) <= set(signals.LOG_FIELDS) for line in lines)
