"""Two gateway processes on one socket are one gateway, also when one of them dies."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest
from tests.drills.idempotency import drill, passed

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.operations.supervisor.status import status
from mlplatform.runtime.units import HOUR_MS
from mlplatform.scoring.protos import scoring_pb2 as pb
from support.gateways_world import GatewaysWorld
from support.scoring_world import MODEL, payment, wait_for

GRPC_ATTEMPTS = 3
pytestmark = pytest.mark.slow


@pytest.fixture
def world(tmp_path: Path) -> Iterator[GatewaysWorld]:
    running = GatewaysWorld(tmp_path)
    yield running
    running.close()


@pytest.fixture
def replay(tmp_path: Path) -> Iterator[GatewaysWorld]:
    running = GatewaysWorld(tmp_path, MLPLATFORM_CLOCK="replay")
    yield running
    running.close()


def test_retries_during_a_ramp_and_a_kill_change_nothing(world: GatewaysWorld) -> None:
    found = drill(world, 3_000, print)

    assert passed(found), found
    assert found["moved_by_the_ramp"] > 0
    assert found["generations"] >= 5
    assert set(found["records_by_writer"]) == {"gateway-0", "gateway-1"}


def test_one_key_sent_to_both_gateways_at_once_has_one_answer(world: GatewaysWorld) -> None:
    world.promote(world.deploy(1))
    names = [p.name for p in status(world.home).processes]
    assert names[:3] == ["supervisor", "gateway-0", "gateway-1"]
    with (
        world.client_of("gateway-0") as first,
        world.client_of("gateway-1") as second,
        ThreadPoolExecutor(2) as both,
    ):

        def send(client: httpx.Client, number: int, body: dict[str, object]) -> str:
            headers = {"Idempotency-Key": f"twin-{number}"}
            answer = client.post("/score", json=body, headers=headers)
            assert answer.status_code == 200
            return answer.text

        for number in range(50):
            body = payment(float(number))
            left = both.submit(send, first, number, body)
            right = both.submit(send, second, number, body)
            assert left.result() == right.result()
        assert second.post("/score", json=payment()).status_code == 200
        assert first.post("/score", json=payment()).status_code == 200
    records = world.records("decision")
    assert len(records) == 52
    assert {r["writer"] for r in records} == {"gateway-0", "gateway-1"}


def test_connections_wait_for_a_gateway_that_is_started_again(tmp_path: Path) -> None:
    """The socket outlives the only gateway: nothing is refused, only late."""
    world = GatewaysWorld(tmp_path, gateways=1)
    try:
        world.promote(world.deploy(1))
        killed = world.kill("gateway-0")
        with world.client() as client:
            answer = client.post("/score", json=payment(), timeout=40.0)
        assert answer.status_code == 200
        world.await_successor("gateway-0", killed)
    finally:
        world.close()


def test_a_killed_gateway_costs_a_grpc_call_a_retry_with_its_key(tmp_path: Path) -> None:
    """Two processes on one gRPC port: calls fail with the one that dies, and their keys answer."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    world = GatewaysWorld(tmp_path, MLPLATFORM_GATEWAY_GRPC_PORT=str(port))
    try:
        world.promote(world.deploy(1))
        requests = [grpc_payment(number) for number in range(400)]
        with ThreadPoolExecutor(8) as callers:
            before = list(callers.map(lambda r: grpc_score(world, port, r), requests[:100]))
            going = [callers.submit(grpc_score, world, port, r) for r in requests]
            wait_for(lambda: sum(call.done() for call in going) > 120)
            killed = world.kill("gateway-0")
            answers = [call.result() for call in going]
        world.await_successor("gateway-0", killed)

        assert [a.decision_id for a in answers[:100]] == [a.decision_id for a in before]
        assert all(a.replayed for a in answers[:100])
        assert len({a.decision_id for a in answers}) == 400
        records = world.records("decision")
        assert {r["decision_id"] for r in records} == {a.decision_id for a in answers}
        assert len(records) == 400
        assert {r["writer"] for r in records} == {"gateway-0", "gateway-1"}
    finally:
        world.close()


def grpc_payment(number: int) -> pb.ScoreRequest:
    value = pb.FieldValue
    return pb.ScoreRequest(
        model=MODEL,
        fields={
            "customer_id": value(integer=number),
            "terminal_id": value(integer=3),
            "amount": value(number=40.0),
        },
        event_time_ms=int(time.time() * 1000),
        idempotency_key=f"grpc-{number}",
    )


def grpc_score(world: GatewaysWorld, port: int, request: pb.ScoreRequest) -> pb.ScoreResponse:
    """The answer, over a connection of its own: the kernel picks the process for each anew."""
    metadata = (("authorization", world.headers["Authorization"]),)
    own_connection = (("grpc.use_local_subchannel_pool", 1),)
    for attempt in range(GRPC_ATTEMPTS):
        with grpc.insecure_channel(f"127.0.0.1:{port}", own_connection) as channel:
            call = channel.unary_unary("/mlplatform.scoring.v1.Scoring/Score")
            try:
                answer = call(request.SerializeToString(), timeout=10.0, metadata=metadata)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE or attempt == GRPC_ATTEMPTS - 1:
                    raise
            else:
                return pb.ScoreResponse.FromString(answer)
    raise AssertionError("unreachable")


def test_a_gateway_whose_name_was_taken_ends_and_another_takes_it_back(
    world: GatewaysWorld,
) -> None:
    world.promote(world.deploy(1))
    process = world.process("gateway-0").process
    assert process is not None
    usurper = SqliteDecisionLog(world.home.decisions)
    usurper.heartbeat("gateway-0")
    usurper.close()

    world.await_successor("gateway-0", process.pid)

    assert "it could record nothing any more" in (world.home.logs / "gateway-0.log").read_text()
    with world.client_of("gateway-0") as client:
        assert client.post("/score", json=payment()).status_code == 200


def test_a_replay_has_one_clock_and_idle_gateways_hold_up_nobody(replay: GatewaysWorld) -> None:
    replay.promote(replay.deploy(1))
    now_ms = 1_600_000_000_000
    log = SqliteDecisionLog(replay.home.decisions)

    def reached() -> dict[str, int | None]:
        return {mark.writer: mark.event_ms for mark in log.watermarks()}

    with replay.client_of("gateway-0") as busy, replay.client_of("gateway-1") as idle:
        for later_ms in (0, 40 * HOUR_MS, 80 * HOUR_MS):
            sent = payment(event_time=now_ms + later_ms)
            assert busy.post("/score", json=sent).status_code == 200
        old = payment(event_time=now_ms)
        wait_for(lambda: idle.post("/score", json=old).status_code == 422)
        last_ms = now_ms + 80 * HOUR_MS
        wait_for(lambda: reached() == {"gateway-0": last_ms, "gateway-1": last_ms})
        ahead = payment(event_time=last_ms + 47 * HOUR_MS)
        # 503 while the log is slow, as on any busy machine; a time too far ahead would stay 422
        wait_for(lambda: idle.post("/score", json=ahead).status_code == 200)
    log.close()


def test_a_platform_that_stops_finishes_and_lets_go_of_its_port(world: GatewaysWorld) -> None:
    world.promote(world.deploy(1))
    world.supervisor.send_signal(signal.SIGTERM)

    assert world.supervisor.wait(40) == 0
    began_s = time.monotonic()
    with pytest.raises(httpx.ConnectError), world.client() as client:
        client.post("/score", json=payment())
    assert time.monotonic() - began_s < 5
