"""A slow, a failed, a degraded and a challenger's request, where traces and log lines are kept.

Through our collector, by its own configuration. Jaeger stands in for Tempo, VictoriaLogs for Loki.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from tests.observability.stack import eventually
from tests.observability.stores import Stores

from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.telemetry.retention import DEBUG_SHARE
from support.observed_world import DEADLINE, FIRST_CUSTOMER, FIRST_TERMINAL, ObservedWorld
from support.ports import free_port
from support.probe import status_of
from support.scoring_world import MODEL, wait_for

pytestmark = [
    pytest.mark.skipif(
        os.environ.get("MLPLATFORM_TEST_OBSERVABILITY") != "required",
        reason="needs the collector, Jaeger and VictoriaLogs: make test-observability",
    ),
    pytest.mark.timeout(600),
]
GATEWAY = "mlplatform-gateway"
WITHIN_S = 90.0
"""The collector waits ten seconds for a trace's last span, and its exporters for company."""

Answer = dict[str, Any]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObservedWorld]:
    made = ObservedWorld(tmp_path_factory.mktemp("world"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def stores(world: ObservedWorld, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    """With the world running in front of them."""
    made = Stores(tmp_path_factory.mktemp("stores"), world.home.logs)
    try:
        world.start(MLPLATFORM_OTLP_ENDPOINT=made.spans)
        yield made
    finally:
        made.close()


@pytest.fixture
def client(world: ObservedWorld, stores: Stores) -> Iterator[httpx.Client]:
    with world.client() as made:
        yield made


def has_a_line(answer: Answer) -> bool:
    """Whether this decision is of the tenth that has lines of level debug."""
    return zlib.crc32(answer["decision_id"].encode()) < DEBUG_SHARE * (1 << 32)


def one_with_a_line(ask: Callable[[], Answer]) -> Answer:
    answer: Answer = wait_for(lambda: next(filter(has_a_line, [ask()]), None), 60.0)
    return answer


def found(stores: Stores, answer: Answer, kept_for: str, *names: str) -> list[dict[str, Any]]:
    """The trace of a decision with all of these spans: from its id, by the trace and by the tag."""
    decision_id, trace_id = answer["decision_id"], answer["decision_id"][:32]
    spans: list[dict[str, Any]] = eventually(
        lambda: _whole(stores.trace(trace_id), names), f"{names} of {trace_id} in Jaeger", WITHIN_S
    )
    (root,) = (s for s in spans if s["name"] == f"score {MODEL}")
    assert root["attributes"][signals.KEPT_FOR.name] == kept_for
    assert root["attributes"][signals.DECISION_ID.name] == decision_id
    tagged = stores.tagged(GATEWAY, **{signals.DECISION_ID.name: decision_id})
    assert {s["trace_id"] for s in tagged} == {trace_id}
    assert {s["span_id"] for s in tagged} == {s["span_id"] for s in spans}
    return spans


def told(stores: Stores, answer: Answer) -> dict[str, Any]:
    """The line of a decision, found by its id, by its trace, and naming both."""
    decision_id, trace_id = answer["decision_id"], answer["decision_id"][:32]
    (line,) = eventually(
        lambda: stores.lines(f'decision_id:="{decision_id}"'),
        f"a line of {decision_id} in VictoriaLogs",
        WITHIN_S,
    )
    assert line["_msg"].startswith("decided by")
    assert line["trace_id"] == trace_id
    assert (line["service.name"], line["retention"]) == (GATEWAY, "7d")
    assert line in stores.lines(f'trace_id:="{trace_id}"')
    return line


def _whole(spans: list[dict[str, Any]], names: tuple[str, ...]) -> list[dict[str, Any]] | None:
    return spans if set(names) <= {span["name"] for span in spans} else None


def test_a_slow_request(world: ObservedWorld, stores: Stores, client: httpx.Client) -> None:
    def ask() -> Answer:
        with world.frozen_predictor(world.arm):
            threading.Timer(0.05, world.thaw).start()
            answer: Answer = client.post("/score", json=world.payment(), headers=DEADLINE).json()
        return answer

    answer = one_with_a_line(ask)
    names = f"score {MODEL}", "features", "predict champion", f"infer {world.arm.service}", "record"
    spans = found(stores, answer, "slow", *names)
    assert {s["service"] for s in spans} == {GATEWAY, "mlplatform-predictor"}
    told(stores, answer)


def test_a_degraded_request(world: ObservedWorld, stores: Stores, client: httpx.Client) -> None:
    def ask() -> Answer:
        answer: Answer = client.post("/score", json=world.payment()).json()
        return answer

    with world.frozen_predictor(world.arm):
        answer = one_with_a_line(ask)
    assert answer["degraded"]
    found(stores, answer, "degraded", f"score {MODEL}", "features", "record")
    told(stores, answer)


def test_a_failed_request(world: ObservedWorld, stores: Stores, client: httpx.Client) -> None:
    trace_id = world.unrecorded(client)
    names = f"score {MODEL}", "features", "predict champion", f"infer {world.arm.service}", "record"
    spans = eventually(lambda: _whole(stores.trace(trace_id), names), "its trace", WITHIN_S)
    (root,) = (s for s in spans if s["name"] == f"score {MODEL}")
    assert root["attributes"][signals.KEPT_FOR.name] == "error"
    assert lost_in(spans)
    decision_id = root["attributes"][signals.DECISION_ID.name]
    tagged = stores.tagged(GATEWAY, **{signals.DECISION_ID.name: decision_id})
    assert {s["trace_id"] for s in tagged} == {trace_id}
    # of many alike a line is written from time to time: it leads to the trace of its own request
    line, *_ = eventually(
        lambda: stores.lines('"a decision was not recorded"'), "the line in VictoriaLogs", WITHIN_S
    )
    assert line["decision_id"]
    assert eventually(lambda: lost_in(stores.trace(line["trace_id"])), "the line's trace", WITHIN_S)


def lost_in(spans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that say that a record was not written."""
    records = (s for s in spans if s["name"] == "record")
    return [s for s in records if s["attributes"].get("error.type") == "unrecorded"]


def test_a_request_of_the_challenger(
    world: ObservedWorld, stores: Stores, client: httpx.Client
) -> None:
    challenger = world.deploy(2, offset=0.01)
    world.shadow(challenger)
    world.canary(50.0)
    answer = one_with_a_line(lambda: world.challengers(client))
    names = "features", "predict challenger", f"infer {challenger.service}", "record"
    found(stores, answer, "canary", f"score {MODEL}", *names)
    told(stores, answer)


def test_from_a_decision_to_its_evidence_and_back(
    world: ObservedWorld, stores: Stores, client: httpx.Client
) -> None:
    """The record names the rollout whose evidence is kept, and the trace that the stores have."""
    answer = one_with_a_line(lambda: world.challengers(client))
    trace_id = told(stores, answer)["trace_id"]
    (record,) = (r for r in world.records("decision") if r["decision_id"] == answer["decision_id"])
    assert (record["bundle"], record["arm"]) == (answer["bundle"], "challenger")
    assert record["rollout_id"] == world.rollouts.routes(MODEL).rollout_id
    assert record["payload"].get("trace_id", record["decision_id"][:32]) == trace_id
    assert eventually(lambda: stores.trace(trace_id), "its trace", WITHIN_S)


def test_the_share_that_a_gateway_chose_is_kept_whole(world: ObservedWorld, stores: Stores) -> None:
    """A point of its latency leads to each of them, and none may lead nowhere."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    second = world._start(
        "gateway", "--name=gateway-1", MLPLATFORM_GATEWAY_PORT=str(port),
        MLPLATFORM_OTLP_ENDPOINT=stores.spans, MLPLATFORM_TRACE_SHARE="1",
    )  # fmt: skip
    try:
        eventually(lambda: status_of(f"{url}/readyz") == 200, "the second gateway is ready")
        path = f"{url}/api/v1/models/{MODEL}/score"

        def ask() -> Answer | None:
            answer = httpx.post(path, json=world.payment(), headers=world.headers)
            return answer.json() if answer.status_code == 200 else None

        for answer in [eventually(ask, "an answer") for _ in range(20)]:
            trace_id = answer["decision_id"][:32]
            assert eventually(lambda t=trace_id: stores.trace(t), f"{trace_id} in Jaeger", WITHIN_S)
    finally:
        second.terminate()
        second.wait(30)


def test_each_line_is_kept_by_its_own_level_under_its_own_process(stores: Stores) -> None:
    """Also where the collector read it together with others."""
    lines = stores.lines("*")
    by_level = {"debug": "7d", "info": "30d", "warning": "90d", "error": "90d"}
    assert {(line["level"], line["retention"]) for line in lines} <= set(by_level.items())
    assert {line["retention"] for line in lines} == {"7d", "30d", "90d"}
    assert {line["service.name"] for line in lines} >= {GATEWAY, "mlplatform-predictor"}
    assert all(line["service.name"] == f"mlplatform-{line['process']}" for line in lines)


def test_nothing_in_the_stores_holds_what_a_request_said(stores: Stores) -> None:
    """No line and no span has a number that the requests were given to be known by."""
    spans, lines = stores.tagged(GATEWAY), stores.lines("*")
    assert len(spans) > 50
    assert len(lines) > 50
    for number in (FIRST_CUSTOMER, FIRST_TERMINAL):
        assert str(number)[:7] not in repr((spans, lines))
