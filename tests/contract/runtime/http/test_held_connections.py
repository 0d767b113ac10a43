"""Every listener beside a user who holds its connections: callers are answered, and he leaves."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.http import grpc_connections, listener, uvicorn_limits
from mlplatform.runtime.http.connection import HttpLimits
from mlplatform.runtime.http.server import BACKLOG
from mlplatform.runtime.processes.commands import command
from mlplatform.runtime.telemetry.refusals import Refusals
from mlplatform.scoring.protos import open_inference_pb2 as pb
from support.attacker import Attacker
from support.home_world import HomeWorld
from support.page_process import PageProcess
from support.platform_process import wait
from support.ports import free_port
from support.predictor_process import TOKEN, Process
from support.probe import status_of
from support.scoring_world import ScoringWorld

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ANSWER_S = 5.0
"""For one on a machine that others use too; alone it takes milliseconds."""
MORE_MEMORY_BYTES = 96 * 1024 * 1024


@dataclass(frozen=True)
class Target:
    """A listener of a process.

    Args:
        ask: a caller's request, with what proves who it is; returns once it is answered.
        connections: that it holds at most.
        strangers: of these.
        audit: where its process keeps refusals; None: it keeps none.
    """

    port: int
    pid: int
    ask: Callable[[], None]
    connections: int
    strangers: int
    audit: Path | None = None
    protocol: str = "http"


def http(url: str, token: str) -> Callable[[], None]:
    """Each time on a new connection."""

    def ask() -> None:
        answer = httpx.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=ANSWER_S)
        assert answer.status_code == 200, answer.text

    return ask


def calls(port: int, method: str, metadata: tuple[tuple[str, str], ...]) -> Callable[[], None]:
    def ask() -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(ANSWER_S)
            sent = pb.ServerReadyRequest().SerializeToString()
            channel.unary_unary(method)(sent, timeout=ANSWER_S, metadata=metadata)

    return ask


def gateway_pid(world: ScoringWorld) -> int:
    assert world._gateway is not None
    return world._gateway.pid


@contextmanager
def gateway(folder: Path) -> Iterator[Target]:
    world, port = ScoringWorld(folder), free_port()
    try:
        world.start_gateway(MLPLATFORM_GATEWAY_GRPC_PORT=str(port))
        key = world.headers["Authorization"].removeprefix("Bearer ")
        limits = HttpLimits()
        yield Target(
            world.port,
            gateway_pid(world),
            http(f"http://127.0.0.1:{world.port}/metrics", key),
            limits.connections,
            limits.strangers,
            world.home.audit,
        )
    finally:
        world.close()


@contextmanager
def gateway_grpc(folder: Path) -> Iterator[Target]:
    world, port = ScoringWorld(folder), free_port()
    try:
        world.start_gateway(MLPLATFORM_GATEWAY_GRPC_PORT=str(port))
        metadata = (("authorization", world.headers["Authorization"]),)
        yield Target(
            port,
            gateway_pid(world),
            calls(port, "/inference.GRPCInferenceService/ServerMetadata", metadata),
            grpc_connections.MAX_CONNECTIONS,
            grpc_connections.MAX_STRANGERS,
            world.home.audit,
            "grpc",
        )
    finally:
        world.close()


@contextmanager
def predictor(folder: Path) -> Iterator[Target]:
    process = Process(folder)
    try:
        wait(process.ready)
        port = int(process.authority.rpartition(":")[2])
        ask = http(f"http://{process.authority}/metrics", TOKEN)
        limits = HttpLimits()
        yield Target(port, process.popen.pid, ask, limits.connections, limits.strangers)
    finally:
        process.close()


@contextmanager
def predictor_grpc(folder: Path) -> Iterator[Target]:
    process = Process(folder)
    try:
        wait(process.ready)
        port = int(process.grpc_url.rpartition(":")[2])
        metadata = (("authorization", f"Bearer {TOKEN}"),)
        yield Target(
            port,
            process.popen.pid,
            calls(port, "/inference.GRPCInferenceService/ServerReady", metadata),
            grpc_connections.MAX_CONNECTIONS,
            grpc_connections.MAX_STRANGERS,
            protocol="grpc",
        )
    finally:
        process.close()


@contextmanager
def page(folder: Path) -> Iterator[Target]:
    world = HomeWorld(folder / "home")
    world.fill()
    process = PageProcess(world.home)
    try:
        yield Target(
            process.port,
            process.process.pid,
            http(f"{process.url}/style.css", process.token),
            uvicorn_limits.LIMITS.connections,
            uvicorn_limits.LIMITS.strangers,
            world.home.audit,
        )
    finally:
        process.close()
        world.close()


@contextmanager
def mlflow(folder: Path) -> Iterator[Target]:
    home, port = Home(folder / "home"), free_port()
    home.create()
    home.mlflow_token.write_text("secret")
    told = {"MLPLATFORM_HOME": str(home.root), "MLPLATFORM_MLFLOW_PORT": str(port)}
    url = f"http://127.0.0.1:{port}"
    with started("mlflow", told, home) as pid:
        wait(lambda: status_of(f"{url}/health") == 200, within_s=150)
        limits = uvicorn_limits.LIMITS
        ask = http(f"{url}/version", "secret")
        yield Target(port, pid, ask, limits.connections, limits.strangers, home.audit)


@contextmanager
def exporter(folder: Path) -> Iterator[Target]:
    home = Home(folder / "home")
    home.create()
    home.exporter_token.write_text("secret")
    address = home.run / "exporter.json"
    told = {"MLPLATFORM_HOME": str(home.root)}
    options = (f"--address-file={address}", f"--token-file={home.exporter_token}")
    with started("exporter", told, home, *options) as pid:
        wait(address.exists)
        port = json.loads(address.read_bytes())["port"]
        ask = http(f"http://127.0.0.1:{port}/metrics", "secret")
        limits = listener.LIMITS
        yield Target(port, pid, ask, limits.connections, limits.strangers, home.audit)


@contextmanager
def started(name: str, told: dict[str, str], home: Home, *options: str) -> Iterator[int]:
    with (home.logs / "process.log").open("wb") as log:
        words = command(name, *options)
        process = subprocess.Popen(words, env={**os.environ, **told}, stdout=log, stderr=log)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


KINDS = (gateway, gateway_grpc, predictor, predictor_grpc, page, mlflow, exporter)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_caller_is_answered_beside_who_holds_connections_and_these_are_ended(
    kind: Callable[[Path], contextmanager[Target]], tmp_path: Path
) -> None:
    with ExitStack() as stack:
        target = stack.enter_context(kind(tmp_path))
        target.ask()
        process = psutil.Process(target.pid)
        files, memory = process.num_fds(), process.memory_info().rss
        attacker = Attacker(target.port, target.strangers * 2 + 50, target.protocol)
        stack.callback(attacker.close)

        for _ in range(8):
            target.ask()
            time.sleep(0.3)
        more_files = process.num_fds() - files
        counted = attacker.ended()
        target.ask()

        assert more_files <= target.connections + BACKLOG
        assert process.memory_info().rss - memory < MORE_MEMORY_BYTES
        assert counted["opened"] > target.strangers * 2
        assert counted["open"] == 0, counted
        if target.audit is not None:
            wait(lambda: any(Refusals(target.audit).since(0)))  # type: ignore[arg-type]
            kept = list(Refusals(target.audit).since(0))
            assert len(kept) <= 2  # one a minute
            assert kept[0].asked.startswith("connections: ")
            assert kept[0].why.startswith("ended: ")
