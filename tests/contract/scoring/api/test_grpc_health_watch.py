"""gRPC's own clients watch the health of a gateway: its library's stub, and a channel by itself."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mlplatform.scoring.api.grpc_health import WATCHES
from support.ports import free_port
from support.scoring_world import ScoringWorld

pytestmark = pytest.mark.slow
STATUS = health_pb2.HealthCheckResponse
WITHIN_S = 20.0


class Gateway:
    """A running gateway that nothing was promoted on: it serves all the same."""

    def __init__(self, world: ScoringWorld) -> None:
        self.world = world
        self.port = free_port()
        world.start_gateway(MLPLATFORM_GATEWAY_GRPC_PORT=str(self.port))
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        self.health: Any = health_pb2_grpc.HealthStub(self.channel)

    def watch(self, service: str = "", **metadata: str) -> Any:
        asked = health_pb2.HealthCheckRequest(service=service)
        return self.health.Watch(asked, timeout=WITHIN_S, metadata=tuple(metadata.items()))


def checking_channel(service: str, *gateways: Gateway) -> grpc.Channel:
    """Calls those of them whose health, which gRPC watches by itself, allows it."""
    config = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": service},
    }
    target = "ipv4:" + ",".join(f"127.0.0.1:{gateway.port}" for gateway in gateways)
    return grpc.insecure_channel(target, options=[("grpc.service_config", json.dumps(config))])


@pytest.fixture
def gateway(tmp_path: Any) -> Iterator[Gateway]:
    world = ScoringWorld(tmp_path)
    try:
        running = Gateway(world)
        yield running
        running.channel.close()
    finally:
        world.close()


def test_a_watch_hears_of_the_end_and_then_ends(gateway: Gateway) -> None:
    watch = gateway.watch("mlplatform.scoring.v1.Scoring")
    assert next(watch).status == STATUS.SERVING
    since_s = time.monotonic()
    assert gateway.world.stop_gateway() == 0
    assert time.monotonic() - since_s < 5  # nobody waits for streams
    assert [answer.status for answer in watch] == [STATUS.NOT_SERVING]
    assert watch.code() == grpc.StatusCode.OK


def test_a_connection_has_only_so_many_watches(gateway: Gateway) -> None:
    watches = [gateway.watch() for _ in range(WATCHES)]
    assert {next(watch).status for watch in watches} == {STATUS.SERVING}
    with pytest.raises(grpc.RpcError) as refused:
        next(gateway.watch())
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    for watch in watches:
        watch.cancel()


def test_a_watch_needs_no_key_and_takes_no_wrong_one(gateway: Gateway) -> None:
    key = gateway.world.headers["Authorization"]
    assert next(gateway.watch(authorization=key)).status == STATUS.SERVING
    with pytest.raises(grpc.RpcError) as refused:
        next(gateway.watch(authorization="Bearer no"))
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("service", "is_called"), [("", True), ("mlplatform.scoring.v9.Scoring", False)]
)
def test_a_channel_that_checks_health_calls_what_serves(
    gateway: Gateway, service: str, is_called: bool
) -> None:
    with checking_channel(service, gateway) as channel:
        live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        if is_called:
            live(b"", timeout=WITHIN_S)
            return
        with pytest.raises(grpc.RpcError) as refused:
            live(b"", timeout=WITHIN_S)
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "unhealthy" in str(refused.value.details())


def test_a_channel_leaves_the_gateway_that_ends_and_no_call_fails(
    gateway: Gateway, tmp_path_factory: pytest.TempPathFactory
) -> None:
    world = ScoringWorld(tmp_path_factory.mktemp("other"))
    try:
        other = Gateway(world)
        with checking_channel("", gateway, other) as channel, ThreadPoolExecutor(1) as pool:
            live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            live(b"", timeout=WITHIN_S)
            ending = pool.submit(gateway.world.stop_gateway)
            calls = 0
            while not ending.done():
                live(b"", timeout=WITHIN_S)  # raises where a call fails
                calls += 1
            assert (ending.result(), calls > 10) == (0, True)
        other.channel.close()
    finally:
        world.close()
