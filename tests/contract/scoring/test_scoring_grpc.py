"""Scoring over gRPC: the same decisions, keys, deadlines and refusals as over HTTP."""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlplatform.model.folders import load_definition
from mlplatform.runtime.http.grpc_door import ARRIVAL_S, MAX_CONNECTIONS, MAX_STRANGERS
from mlplatform.scoring.api.grpc_server import SERVICES
from mlplatform.scoring.protos import health_pb2 as health
from mlplatform.scoring.protos import open_inference_pb2 as oip
from mlplatform.scoring.protos import scoring_pb2 as pb
from support.platform_process import wait
from support.scoring_world import MODEL, ScoringWorld

pytestmark = pytest.mark.slow
SERVICE = "/mlplatform.scoring.v1.Scoring"


class Calls:
    """A client of one running gateway."""

    def __init__(self, world: ScoringWorld, port: int) -> None:
        self.world = world
        self.port = port
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")

    def raw(self, method: str, request: bytes, timeout: float = 5.0, **metadata: str) -> bytes:
        sent = {"authorization": self.world.headers["Authorization"]} | metadata
        call = self.channel.unary_unary(f"{SERVICE}/{method}")
        answer: bytes = call(request, timeout=timeout, metadata=tuple(sent.items()))
        return answer

    def score(self, request: pb.ScoreRequest, **terms: Any) -> pb.ScoreResponse:
        return pb.ScoreResponse.FromString(self.raw("Score", request.SerializeToString(), **terms))


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calls]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    world = ScoringWorld(tmp_path_factory.mktemp("grpc"))
    try:
        world.promote(world.deploy(1))
        world.start_gateway(MLPLATFORM_GATEWAY_GRPC_PORT=str(port))
        yield Calls(world, port)
    finally:
        world.close()


def payment(amount: float, customer: int = 2**60 + 1, key: str = "") -> pb.ScoreRequest:
    value = pb.FieldValue
    fields = {
        "customer_id": value(integer=customer),
        "terminal_id": value(integer=3),
        "amount": value(number=amount),
    }
    now_ms = int(time.time() * 1000)
    return pb.ScoreRequest(model=MODEL, fields=fields, event_time_ms=now_ms, idempotency_key=key)


@pytest.mark.parametrize("service", ["", *SERVICES])
def test_a_probe_needs_no_key(calls: Calls, service: str) -> None:
    check = calls.channel.unary_unary("/grpc.health.v1.Health/Check")
    asked = health.HealthCheckRequest(service=service)
    answer = health.HealthCheckResponse.FromString(check(asked.SerializeToString(), timeout=5.0))
    assert answer.status == health.HealthCheckResponse.SERVING


def test_a_key_used_over_grpc_answers_over_http(calls: Calls) -> None:
    request = payment(600.0, key="both-ways")
    first, again = calls.score(request), calls.score(request)
    assert (first.decision, first.answered_by, first.model_version) == ("review", "champion", 1)
    assert first.score == pytest.approx(0.6, abs=1e-4)
    assert [first.replayed, again.replayed] == [False, True]
    body = {
        "customer_id": 2**60 + 1,
        "terminal_id": 3,
        "amount": 600.0,
        "event_time": request.event_time_ms,
    }
    reply = httpx.post(
        f"{calls.world.url}/api/v2/models/{MODEL}/score",
        json=body,
        headers=calls.world.headers | {"Idempotency-Key": "both-ways"},
    )
    told = reply.json()
    assert told["decision_id"] == first.decision_id == again.decision_id
    gaps = {"missing": [*first.missing_views]}  # no snapshot was ever made here
    assert told["feature_gaps"] == gaps == {"missing": ["customer_stats", "terminal_stats"]}
    assert not first.stale_views
    assert not first.unavailable_views


def test_a_batch_decides_each_item_by_itself(calls: Calls) -> None:
    batch = pb.ScoreBatchRequest(requests=[payment(100.0), payment(-1.0), payment(950.0)])
    results = pb.ScoreBatchResponse.FromString(
        calls.raw("ScoreBatch", batch.SerializeToString())
    ).results
    assert [r.WhichOneof("outcome") for r in results] == ["answer", "problem", "answer"]
    assert results[1].problem.field == "amount"
    assert results[2].answer.decision == "decline"


@pytest.mark.parametrize(
    ("code", "status", "request_", "metadata"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, 401, payment(1.0), {"authorization": "Bearer no"}),
        (grpc.StatusCode.INVALID_ARGUMENT, 422, payment(-1.0), {}),
        (grpc.StatusCode.NOT_FOUND, 404, pb.ScoreRequest(model="other"), {}),
        (grpc.StatusCode.INVALID_ARGUMENT, 422, payment(1.0), {"idempotency-key": "a b"}),
    ],
    ids=["another key", "out of range", "unknown model", "bad idempotency key"],
)
def test_a_refusal_is_a_status_with_the_problem_behind_it(
    calls: Calls, code: grpc.StatusCode, status: int, request_: pb.ScoreRequest, metadata: Any
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        calls.score(request_, **metadata)
    assert caught.value.code() == code
    problem = json.loads(dict(caught.value.trailing_metadata())["problem-bin"])
    assert problem["status"] == status


def test_strangers_that_hold_connections_leave_and_callers_stay(calls: Calls) -> None:
    calls.score(payment(1.0))
    port, held = calls.port, []
    try:
        for _ in range(MAX_CONNECTIONS + 20):
            held.append(socket.create_connection(("127.0.0.1", port), timeout=5.0))
        wait(lambda: sum(is_open(one) for one in held) <= MAX_STRANGERS)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            assert oip.ServerLiveResponse.FromString(live(b"", timeout=5.0)).live
        calls.score(payment(1.0))
        wait(lambda: not any(is_open(one) for one in held), within_s=ARRIVAL_S + 10)
    finally:
        for one in held:
            one.close()


def is_open(held: socket.socket) -> bool:
    """Whether the other end of a connection on which nothing is sent has not closed it."""
    held.setblocking(False)
    try:
        while held.recv(4096):
            continue
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(request_=st.binary(max_size=80), method=st.sampled_from(["Score", "ScoreBatch"]))
def test_no_message_is_too_strange(calls: Calls, request_: bytes, method: str) -> None:
    refused = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    try:
        calls.raw(method, request_)
    except grpc.RpcError as error:
        if error.code() not in refused:
            raise


@pytest.mark.parametrize("is_raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_an_inference_takes_missing_values_and_no_infinite_ones(
    calls: Calls, value: float, is_raw: bool
) -> None:
    values = [500.0, *([value] * (len(load_definition(MODEL).inputs) - 1))]
    request = oip.ModelInferRequest(model_name=MODEL)
    tensor = request.inputs.add(name="inputs", datatype="FP32", shape=[1, len(values)])
    if is_raw:
        request.raw_input_contents.append(struct.pack(f"<{len(values)}f", *values))
    else:
        tensor.contents.fp32_contents.extend(values)
    infer = calls.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    sent = (("authorization", calls.world.headers["Authorization"]),)
    if math.isnan(value):
        oip.ModelInferResponse.FromString(
            infer(request.SerializeToString(), timeout=5.0, metadata=sent)
        )
        return
    with pytest.raises(grpc.RpcError) as refused:
        infer(request.SerializeToString(), timeout=5.0, metadata=sent)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "too large for FP32" in refused.value.details()
