"""gRPC's health service: what a probe is told while requests can and cannot be answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.api import grpc_health
from mlplatform.scoring.api.grpc_health import WATCHES, HealthService
from mlplatform.scoring.api.grpc_server import SERVICES
from mlplatform.scoring.api.probes import Health
from mlplatform.scoring.protos import health_pb2 as pb

STATUS = pb.HealthCheckResponse
NO_CALL = cast("Any", None)  # who asks does not matter
ANSWER_S = 5.0


def asked(service: str) -> bytes:
    return pb.HealthCheckRequest(service=service).SerializeToString()


async def told(health: Health, service: str) -> int:
    check = HealthService(health, SERVICES).answers()["Check"]
    answer: Any = await check(asked(service), NO_CALL)
    return int(answer.status)


@pytest.mark.parametrize("service", ["", grpc_health.SERVICE, *SERVICES])
@pytest.mark.parametrize(
    ("alive", "ready", "status"),
    [
        (True, True, STATUS.SERVING),
        (True, False, STATUS.NOT_SERVING),
        (False, True, STATUS.NOT_SERVING),
    ],
)
async def test_a_service_serves_once_requests_can_be_answered(
    service: str, alive: bool, ready: bool, status: int
) -> None:
    assert await told(Health(lambda: alive, lambda: ready), service) == status


async def test_a_service_that_there_is_not_is_not_found() -> None:
    with pytest.raises(Problem) as refused:
        await told(Health(lambda: True, lambda: True), "mlplatform.scoring.v9.Scoring")
    assert refused.value.status == 404


async def test_what_is_no_request_is_refused() -> None:
    server = Server()
    with pytest.raises(Problem) as refused:
        await server.service.answers()["Check"](b"\xff", NO_CALL)
    assert refused.value.status == 400
    with pytest.raises(Problem) as refused:
        await server.service.notices()["Watch"](b"\xff", server.call(), server.sent.put)
    assert refused.value.status == 400


class Server:
    """A server whose readiness a test sets, and what those who watch it were sent."""

    def __init__(self, watch_s: float = 60.0) -> None:
        self.is_ready = False
        health = Health(lambda: True, lambda: self.is_ready)
        self.service = HealthService(health, SERVICES, watch_s=watch_s)
        self.sent: asyncio.Queue[Any] = asyncio.Queue()

    def call(self, peer: str = "ipv4:127.0.0.1:40000") -> Any:
        return SimpleNamespace(headers={}, peer=peer)

    def watch(self, service: str = "", peer: str = "ipv4:127.0.0.1:40000") -> asyncio.Task[None]:
        notices = self.service.notices()["Watch"]
        return asyncio.ensure_future(notices(asked(service), self.call(peer), self.sent.put))

    async def next(self) -> int:
        return int((await asyncio.wait_for(self.sent.get(), ANSWER_S)).status)


@asynccontextmanager
async def running(watch_s: float = 60.0) -> AsyncIterator[Server]:
    server = Server(watch_s)
    server.service.start()
    try:
        yield server
    finally:
        server.service.stop()


async def test_who_watches_is_told_at_once_and_of_each_change() -> None:
    async with running() as server:
        watching = server.watch(SERVICES[0])
        assert await server.next() == STATUS.NOT_SERVING
        for is_ready, status in [(True, STATUS.SERVING), (False, STATUS.NOT_SERVING)]:
            server.is_ready = is_ready
            assert await server.next() == status
        assert server.sent.empty()
        watching.cancel()


async def test_a_drain_is_told_and_the_streams_end_only_with_the_server() -> None:
    async with running() as server:
        server.is_ready = True
        watching = server.watch()
        assert await server.next() == STATUS.SERVING
        server.service.begin_drain()
        assert await server.next() == STATUS.NOT_SERVING
        assert await told_by(server) == STATUS.NOT_SERVING
        assert not watching.done()
        server.service.stop()
        await asyncio.wait_for(watching, ANSWER_S)
        assert server.sent.empty()


async def told_by(server: Server) -> int:
    answer: Any = await server.service.answers()["Check"](asked(""), NO_CALL)
    return int(answer.status)


async def test_a_service_that_there_is_not_is_watched_as_unknown() -> None:
    async with running() as server:
        watching = server.watch("mlplatform.scoring.v9.Scoring")
        assert await server.next() == STATUS.SERVICE_UNKNOWN
        assert not watching.done()
        watching.cancel()


async def test_a_connection_has_few_watches_and_a_place_again_after_one_ended() -> None:
    async with running() as server:
        watching = [server.watch() for _ in range(WATCHES)]
        for _ in watching:
            await server.next()
        with pytest.raises(Problem, match="8 open watches") as refused:
            await server.watch()
        assert refused.value.status == 429
        other = server.watch(peer="ipv4:127.0.0.1:40001")
        await server.next()
        watching[0].cancel()
        await asyncio.wait(watching[:1])
        watching[0] = server.watch()
        await server.next()
        for task in (*watching, other):
            task.cancel()


async def test_a_watch_ends_after_its_time() -> None:
    async with running(watch_s=0.05) as server:
        await asyncio.wait_for(server.watch(), ANSWER_S)
        assert await server.next() == STATUS.NOT_SERVING
