"""Where a gateway listens: on this machine alone, unless it is told an address."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from mlplatform.scoring.protos import open_inference_pb2 as pb
from support.ports import free_port
from support.probe import status_of
from support.scoring_world import ScoringWorld

HOST = "127.0.0.2"
"""As loopback as 127.0.0.1, and another address."""
LIVE = "/inference.GRPCInferenceService/ServerLive"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ScoringWorld]:
    made = ScoringWorld(tmp_path)
    yield made
    made.close()


def answers_over_grpc(host: str, port: int) -> bool:
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        try:
            answer = channel.unary_unary(LIVE)(b"", timeout=5.0)
        except grpc.RpcError:
            return False
    return pb.ServerLiveResponse.FromString(answer).live


def takes_connections(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5.0).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.slow
def test_both_listeners_are_at_the_host_that_is_given_and_nowhere_else(world: ScoringWorld) -> None:
    calls = free_port()

    world.start_gateway(f"--host={HOST}", at=HOST, MLPLATFORM_GATEWAY_GRPC_PORT=str(calls))

    assert status_of(f"http://{HOST}:{world.port}/healthz") == 200
    assert answers_over_grpc(HOST, calls)
    assert not takes_connections("127.0.0.1", world.port)
    assert not takes_connections("127.0.0.1", calls)


@pytest.mark.slow
def test_without_a_host_only_this_machine_is_answered(world: ScoringWorld) -> None:
    calls = free_port()

    world.start_gateway(MLPLATFORM_GATEWAY_GRPC_PORT=str(calls))

    assert answers_over_grpc("127.0.0.1", calls)
    assert not takes_connections(HOST, world.port)
    assert not takes_connections(HOST, calls)
