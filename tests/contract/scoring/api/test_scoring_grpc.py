"""Scoring over gRPC: the same decisions, keys, deadlines and refusals as over HTTP."""

from __future__ import annotations

import itertools
import json
import math
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlplatform.model.folders import load_definition
from mlplatform.runtime.http.grpc_connections import ARRIVAL_S, MAX_CONNECTIONS, MAX_STRANGERS
from mlplatform.scoring.api.grpc_calls import STREAM_MESSAGES, STREAM_S
from mlplatform.scoring.api.grpc_server import SERVICES
from mlplatform.scoring.protos import health_pb2 as health
from mlplatform.scoring.protos import open_inference_pb2 as oip
from mlplatform.scoring.protos import reflection_pb2 as reflection
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


def of_official_client(calls: Calls, **metadata: str) -> ProtoReflectionDescriptorDatabase:
    """Asks as the client library of gRPC itself does, which knows the older name alone."""
    sent = {"authorization": calls.world.headers["Authorization"]} | metadata
    channel = grpc.intercept_channel(calls.channel, WithMetadata(tuple(sent.items())))
    return ProtoReflectionDescriptorDatabase(channel)


class WithMetadata(grpc.StreamStreamClientInterceptor):  # type: ignore[misc,type-arg]
    def __init__(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self.metadata = metadata

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(details._replace(metadata=self.metadata), requests)


def test_a_client_without_proto_files_learns_services_and_messages(calls: Calls) -> None:
    database = of_official_client(calls)
    assert set(database.get_services()) >= {*SERVICES, "grpc.health.v1.Health"}
    pool = DescriptorPool(database)
    for service in database.get_services():
        assert pool.FindServiceByName(service.replace("v1alpha", "v1")).methods
    request = GetMessageClass(pool.FindMessageTypeByName("mlplatform.scoring.v1.ScoreRequest"))
    sent = request(model=MODEL, event_time_ms=int(time.time() * 1000))
    sent.fields["customer_id"].integer, sent.fields["terminal_id"].integer = 7, 9
    sent.fields["amount"].number = 600.0
    answer = pb.ScoreResponse.FromString(calls.raw("Score", sent.SerializeToString()))
    assert answer.decision == "review"


def reflected(calls: Calls, asked: Iterator[bytes], **metadata: str) -> list[Any]:
    sent = {"authorization": calls.world.headers["Authorization"]} | metadata
    info = calls.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    answers = info(asked, timeout=20.0, metadata=tuple(sent.items()))
    return [reflection.ServerReflectionResponse.FromString(answer) for answer in answers]


def test_what_reflection_does_not_know_is_an_error_in_its_answer(calls: Calls) -> None:
    request = reflection.ServerReflectionRequest
    asked = (request(file_containing_symbol="no.such"), request(), request(list_services=""))
    unknown, empty, services = reflected(calls, (one.SerializeToString() for one in asked))
    assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert empty.error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert len(services.list_services_response.service) == len(SERVICES) + 3


@pytest.mark.parametrize(
    ("message", "key", "code"),
    [
        (b"", "Bearer no", grpc.StatusCode.UNAUTHENTICATED),
        (b"", "", grpc.StatusCode.UNAUTHENTICATED),
        (b"\xff", None, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_reflection_is_for_those_with_a_key(
    calls: Calls, message: bytes, key: str | None, code: grpc.StatusCode
) -> None:
    metadata = {} if key is None else {"authorization": key}
    with pytest.raises(grpc.RpcError) as refused:
        reflected(calls, iter([message]), **metadata)
    assert refused.value.code() == code


def test_a_stream_of_questions_has_an_end(calls: Calls) -> None:
    asked = reflection.ServerReflectionRequest(list_services="").SerializeToString()
    assert len(reflected(calls, itertools.repeat(asked, STREAM_MESSAGES + 9))) == STREAM_MESSAGES

    def silent() -> Iterator[bytes]:
        yield asked
        ended.wait(60)

    ended, since_s = threading.Event(), time.monotonic()
    try:
        assert len(reflected(calls, silent())) == 1
        assert time.monotonic() - since_s < STREAM_S + 5
    finally:
        ended.set()
