"""A server on uvicorn with limited connections, by real sockets; a test can wait for its limits."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
import websockets
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from mlplatform.runtime.http import uvicorn_limits
from mlplatform.runtime.http.connection import MAX_HEAD_BYTES, MAX_HEADERS
from mlplatform.runtime.http.token_gate import TokenGate
from mlplatform.runtime.http.uvicorn_limits import MAX_PIPELINED, ListenerConnections, UvicornLimits
from mlplatform.runtime.telemetry.refusals import Refusal, Refusals

LIMITS = UvicornLimits(connections=12, strangers=6, arrival_s=1.0, transfer_s=3.0, idle_s=1)
AUTH = "Authorization: Bearer secret\r\n"
HEAD = f"GET / HTTP/1.1\r\nHost: x\r\n{AUTH}"
MARGIN_S = 4.0  # for looks once a second, on a busy machine


async def _answer(request: Request) -> PlainTextResponse:
    body = await request.body()
    return PlainTextResponse(f"{len(body)} bytes")


async def _much(_: Request) -> PlainTextResponse:
    return PlainTextResponse("x" * 20_000_000)


async def _talk(given: WebSocket) -> None:
    await given.accept()
    async for text in given.iter_text():
        await given.send_text(text)


INNER = Starlette(
    routes=[
        Route("/", _answer, methods=["GET", "POST"]),
        Route("/health", _answer),
        Route("/much", _much),
        WebSocketRoute("/talk", _talk),
    ]
)


class RunningServer:
    """The server, and what it kept."""

    def __init__(self, folder: Path) -> None:
        self.kept = Refusals(folder)
        self.connections = ListenerConnections("page", self.kept, LIMITS)
        config = uvicorn.Config(
            TokenGate(INNER, "secret", "page", "run/page.token", self.connections.admit),
            port=0,
            log_config=None,
            access_log=False,
            **self.connections.options(),
        )
        self.server = uvicorn.Server(config)
        self.port = 0

    async def connect(self, sent: str = "") -> asyncio.StreamReader:
        reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writer.write(sent.encode())
        await self._writer.drain()
        _HELD.append(self._writer)
        return reader

    async def answer(self) -> httpx.Response:
        async with httpx.AsyncClient() as client:
            url, headers = f"http://127.0.0.1:{self.port}/", {"Authorization": "Bearer secret"}
            return await client.get(url, headers=headers, timeout=5.0)

    def refusals(self) -> list[Refusal]:
        return list(self.kept.since(0))


_HELD: list[asyncio.StreamWriter] = []
"""Connections that nobody closes."""


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[RunningServer]:
    made = RunningServer(tmp_path)
    task = asyncio.create_task(made.server.serve())
    async with asyncio.timeout(10):
        while not made.server.started:
            await asyncio.sleep(0.01)
    made.port = made.server.servers[0].sockets[0].getsockname()[1]
    yield made
    for writer in _HELD:
        with contextlib.suppress(ConnectionError):
            writer.close()
    _HELD.clear()
    made.server.should_exit = True
    async with asyncio.timeout(10):
        await task


async def all_of(reader: asyncio.StreamReader, limit_s: float = 30.0) -> bytes:
    """What comes until the other end closes."""
    async with asyncio.timeout(limit_s):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "GET / HT",
        "GET / HTTP/1.1\r\nHost: x\r\nX: ",
        "\r\n",
        f"{HEAD}Content-Length: 9\r\n\r\n1",
    ],
    ids=["nothing", "half a line", "half a header", "an empty line", "half a body"],
)
async def test_a_request_that_does_not_arrive_is_ended(running: RunningServer, sent: str) -> None:
    reader = await running.connect(sent)
    limit_s = LIMITS.transfer_s if "Content" in sent else LIMITS.arrival_s

    await all_of(reader, limit_s + MARGIN_S)


async def test_bytes_one_by_one_win_no_time(running: RunningServer) -> None:
    reader = await running.connect("GET / HTTP/1.1\r\n")
    writer = _HELD[-1]

    async def drip() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"X-A: b\r\n")
                await writer.drain()
                await asyncio.sleep(0.2)

    dripping = asyncio.create_task(drip())
    await all_of(reader, LIMITS.arrival_s + MARGIN_S)
    dripping.cancel()


async def test_an_answer_that_is_not_read_is_ended(running: RunningServer) -> None:
    reader = await running.connect(HEAD.replace(" / ", " /much ") + "\r\n")
    await asyncio.sleep(LIMITS.transfer_s + MARGIN_S)

    got = await all_of(reader)

    assert got.startswith(b"HTTP/1.1 200")
    assert len(got) < 20_000_000
    assert "slow to read" in running.refusals()[0].why


async def test_who_was_let_in_is_answered_beside_any_number_of_silent_ones(
    running: RunningServer,
) -> None:
    for _ in range(10 * LIMITS.strangers):
        await running.connect("GET / HTTP/1.1\r\n")

    answer = await running.answer()

    assert answer.status_code == 200
    assert len(running.connections._open) <= LIMITS.connections


async def test_a_connection_that_was_let_in_keeps_its_place(running: RunningServer) -> None:
    reader = await running.connect(HEAD + "\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer = _HELD[-1]

    for _ in range(3 * LIMITS.strangers):
        await running.connect()
    writer.write((HEAD + "Connection: close\r\n\r\n").encode())

    assert (await all_of(reader)).count(b"HTTP/1.1 200") == 1


async def test_a_flood_is_one_refusal_that_says_how_many_were_ended(running: RunningServer) -> None:
    for _ in range(5 * LIMITS.strangers):
        await running.connect()
    async with asyncio.timeout(10):
        while not running.refusals():
            await asyncio.sleep(0.1)
    for _ in range(5 * LIMITS.strangers):
        await running.connect()
    await asyncio.sleep(2.5)

    [kept] = running.refusals()

    assert kept.door == "page"
    assert "to make room" in kept.why


@pytest.mark.parametrize(
    "head",
    [
        f"GET /{'x' * (MAX_HEAD_BYTES + 1)} HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\n" + "A: b\r\n" * (MAX_HEADERS + 2),
        "GET / HTTP/1.1\r\nA: " + "x" * 400_000,
        f"{HEAD}Transfer-Encoding: chunked\r\n\r\n0\r\nA: " + "x" * 400_000,
        f"{HEAD}Transfer-Encoding: chunked\r\n\r\n0\r\n" + "A: b\r\n" * (MAX_HEADERS + 2),
    ],
    ids=["a path", "many headers", "an endless header", "an endless trailer", "many trailers"],
)
async def test_a_head_that_is_too_large_is_refused_as_it_comes(
    running: RunningServer, head: str
) -> None:
    reader = await running.connect(head)

    got = await all_of(reader, MARGIN_S)

    assert b" 200 " not in got
    assert b" 431 " in got or "chunked" in head or got == b""
    async with asyncio.timeout(5):
        while not running.refusals():
            await asyncio.sleep(0.1)
    assert "too large" in running.refusals()[0].why


async def test_more_requests_at_once_than_may_wait_are_not_read(running: RunningServer) -> None:
    reader = await running.connect((HEAD + "\r\n") * 10_000)

    got = await all_of(reader, MARGIN_S)

    assert got.count(b"HTTP/1.1 200") <= MAX_PIPELINED + 1
    assert (await running.answer()).status_code == 200


async def test_a_few_requests_at_once_are_answered_in_turn(running: RunningServer) -> None:
    reader = await running.connect((HEAD + "\r\n") * 4 + HEAD + "Connection: close\r\n\r\n")

    assert (await all_of(reader)).count(b"HTTP/1.1 200") == 5


async def test_a_stranger_that_asks_and_then_says_nothing_is_ended(running: RunningServer) -> None:
    reader = await running.connect("GET /health HTTP/1.1\r\nHost: x\r\n\r\n")

    assert b" 200 " in await all_of(reader, LIMITS.idle_s + MARGIN_S)


async def test_a_socket_that_was_let_in_may_be_silent_for_longer_than_a_request(
    running: RunningServer,
) -> None:
    url = f"ws://127.0.0.1:{running.port}/talk"
    headers = {"Authorization": "Bearer secret"}
    async with websockets.connect(url, additional_headers=headers) as talking:
        await asyncio.sleep(LIMITS.transfer_s + 2)
        for _ in range(3 * LIMITS.strangers):
            await running.connect()
        await talking.send("still here")

        assert await talking.recv() == "still here"


async def test_a_socket_of_a_stranger_is_refused_and_forgotten(running: RunningServer) -> None:
    with pytest.raises(websockets.InvalidStatus):
        await websockets.connect(f"ws://127.0.0.1:{running.port}/talk")
    async with asyncio.timeout(5):
        while len(running.connections._open):
            await asyncio.sleep(0.05)


@pytest.fixture
def few_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_there_are_fewer_places_where_there_are_few_open_files(
    few_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)

    assert ListenerConnections("page")._open._room.connections <= 32


async def test_what_lay_unread_while_the_server_was_busy_ends_no_connection(
    running: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first check after it ends nothing, the second one does."""
    now_s = time.monotonic()
    await running.connect(HEAD)
    await asyncio.sleep(0.1)
    assert running.server.server_state.connections
    for later_s, is_open in ((100.0, True), (200.0, False)):
        monkeypatch.setattr(uvicorn_limits.time, "monotonic", lambda at=now_s + later_s: at)
        await running.connections.check_limits()
        monkeypatch.undo()
        assert bool([*running.connections._open]) is is_open
