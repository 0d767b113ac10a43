"""A server by real sockets: limits, and an end that loses no request."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from mlplatform.runtime.http.connection import MAX_HEAD_BYTES, MAX_HEADERS, Answer, HttpLimits
from mlplatform.runtime.http.messages import Refusal, Reply, Request
from mlplatform.runtime.http.server import Life, Server

GET = b"GET / HTTP/1.1\r\nhost: x\r\n"
CLOSE = b"connection: close\r\n"


class Slow:
    """Gives back what it got, after as many milliseconds as the path says."""

    def __init__(self) -> None:
        self.asked = 0
        self.ends: list[str] = []

    def answer(self, request: Request) -> Answer:
        async def answered() -> Reply:
            body = await request.body()
            await asyncio.sleep(int(request.path[1:] or 0) / 1000)
            self.asked += 1
            return Reply(body)

        return answered()

    def refusal(self, refused: Refusal) -> Reply:
        return Reply(json.dumps({"type": refused.name}).encode(), status=refused.status)

    def on_ended(self, reason: str) -> None:
        self.ends.append(reason)


class RunningServer:
    """A server on a port of its own."""

    def __init__(self, life: Life, limits: HttpLimits, application: Slow) -> None:
        self.application = application
        self.steps: list[str] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        life = replace(life, start=self.step("start"), stop=self.step("stop"))
        self.server = Server(self.application, [self.socket], life, limits)
        self.task = asyncio.create_task(self.server.serve())

    def step(self, name: str) -> Any:
        async def stepped() -> None:
            self.steps.append(name)

        return stepped

    async def ended(self) -> None:
        async with asyncio.timeout(20):
            await self.task


@contextlib.asynccontextmanager
async def running(
    life: Life | None = None, limits: HttpLimits | None = None, application: Slow | None = None
) -> AsyncIterator[RunningServer]:
    limits = limits or HttpLimits(connections=5, arrival_s=0.5)
    made = RunningServer(life or Life(), limits, application or Slow())
    await asyncio.sleep(0.05)
    yield made
    for _ in range(2):
        made.server.end()
    await made.ended()


async def answer(port: int, *parts: bytes, pause_s: float = 0.0) -> tuple[int, bytes]:
    """Status and body of what comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    reading = asyncio.create_task(reader.read())
    try:
        for part in parts:
            if not reading.done():
                writer.write(part)
                await asyncio.sleep(pause_s)
        async with asyncio.timeout(10):
            text = await reading
    finally:
        writer.close()
    head, _, body = text.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.parametrize(
    ("parts", "status", "name"),
    [
        pytest.param([], 408, "slow-request", id="nothing at all"),
        pytest.param([GET], 408, "slow-request", id="half a head"),
        pytest.param([GET, *[b"a: b\r\n"] * 30], 408, "slow-request", id="a header at a time"),
        pytest.param(
            [GET + b"content-length: 99\r\n\r\n", *[b"x"] * 30], 408, "slow-request", id="slow body"
        ),
        pytest.param(
            [GET + b"a: b\r\n" * MAX_HEADERS + b"\r\n"], 431, "head-too-large", id="many headers"
        ),
        pytest.param(
            [GET + b"a: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n"],
            431, "head-too-large", id="a large header",
        ),
        pytest.param(
            [GET + b"a: ", *[b"x" * 4096] * 8], 431, "head-too-large", id="a head without end"
        ),
        pytest.param([b"nonsense\r\n\r\n"], 400, "malformed-http", id="no HTTP"),
    ],
)  # fmt: skip
async def test_it_is_ended_with_a_word(parts: list[bytes], status: int, name: str) -> None:
    async with running() as server:
        found, body = await answer(server.port, *parts, pause_s=0.03 if len(parts) > 1 else 0.0)
        assert (found, json.loads(body)["type"]) == (status, name)
        assert server.application.ends == [name]
        assert not server.application.asked


async def test_what_is_within_the_limits_is_answered() -> None:
    body = b"x" * 300_000
    head = GET + b"a: b\r\n" * (MAX_HEADERS - 3) + CLOSE
    sent = head + b"content-length: %d\r\n\r\n" % len(body) + body
    async with running() as server:
        assert await answer(server.port, sent) == (200, body)
        assert await answer(server.port, head[:50], head[50:] + b"\r\n", pause_s=0.1) == (200, b"")
        assert server.application.ends == []


async def test_an_idle_connection_outlives_the_time_a_request_may_take() -> None:
    async with running() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for _ in range(2):
            writer.write(GET + b"\r\n")
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.7)
        writer.close()
        assert server.application.ends == []


_FEW_FILES = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (16, 64))
from mlplatform.runtime.http import server
print(server.connections_within(4096), server.connections_within(10))
held = []
try:
    while True:
        held.append(socket.socket())
except OSError:
    print(len(held))
"""


def test_connections_leave_files_for_what_answers_them() -> None:
    """In a process of its own, because nobody gets a hard limit back."""
    done = subprocess.run([sys.executable, "-c", _FEW_FILES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    most, few, files = map(int, done.stdout.split())
    assert (most, few) == (32, 10)
    assert 32 < files < 64  # the soft limit was raised


async def test_a_new_connection_is_answered_and_the_oldest_stranger_is_told_to_go() -> None:
    async with running() as server:
        held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(5)]
        await asyncio.sleep(0.05)
        status, _ = await answer(server.port, GET + CLOSE + b"\r\n")
        assert status == 200
        assert b"too-many-connections" in await held[0][0].read()
        for _, writer in held:
            writer.close()


class GatedApp(Slow):
    """Answers `/gate` when it is opened, all else at once with more than a reader takes unasked."""

    body = bytes(300_000)

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    def answer(self, request: Request) -> Answer:
        async def answered() -> Reply:
            await self.gate.wait()
            return Reply(b"")

        return answered() if request.path == "/gate" else Reply(self.body)


@pytest.mark.parametrize("drains", [True, False], ids=["draining", "asked to close"])
async def test_bytes_that_nobody_reads_take_no_answer_with_them(drains: bool) -> None:
    """A socket that is closed upon them resets the connection, and what the peer has not read of
    the answer is gone."""
    loop, application = asyncio.get_running_loop(), GatedApp()
    async with running(application=application) as server:
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.setblocking(False)
        await loop.sock_connect(peer, ("127.0.0.1", server.port))
        last = GET + (b"" if drains else CLOSE) + b"\r\n"
        await loop.sock_sendall(peer, b"GET /gate HTTP/1.1\r\nhost: x\r\n\r\n" + last)
        await asyncio.sleep(0.1)  # reading is paused: an answer is owed, and another one waits
        await loop.sock_sendall(peer, GET + b"\r\n")
        if drains:
            server.server.end()
        await asyncio.sleep(0.1)
        application.gate.set()
        await asyncio.sleep(0.1)
        got = b""
        while part := await loop.sock_recv(peer, 65536):
            got += part
        peer.close()
        assert got.endswith(b"\r\n\r\n" + application.body)
        assert got.count(b"HTTP/1.1 200 OK") == 2


async def test_no_request_is_lost_when_it_is_told_to_end() -> None:
    """Sixteen callers that ask without pause see no broken connection, only one that says so."""
    answers = 0

    async def calling(port: int) -> None:
        nonlocal answers
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while True:
            writer.write(b"GET /2 HTTP/1.1\r\nhost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK")
            answers += 1
            if b"connection: close" in head:
                assert await reader.read() == b""
                writer.close()
                return

    async with running(limits=HttpLimits()) as server:
        callers = [asyncio.create_task(calling(server.port)) for _ in range(16)]
        async with asyncio.timeout(20):
            while server.application.asked <= 64:
                await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0)  # its handler has run: the tests' process need not end
        faulthandler.cancel_dump_traceback_later()
        await asyncio.gather(*callers)
        await server.ended()
        assert server.steps == ["start", "stop"]
        assert answers == server.application.asked > 16


async def test_a_request_under_way_is_finished_and_an_idle_connection_is_not_waited_for() -> None:
    async with running(Life(linger_s=0.0)) as server:
        idle = await asyncio.open_connection("127.0.0.1", server.port)
        idle[1].write(GET + b"\r\n")
        await idle[0].readuntil(b"\r\n\r\n")
        slow = asyncio.create_task(answer(server.port, b"GET /300 HTTP/1.1\r\nhost: x\r\n\r\n"))
        await asyncio.sleep(0.1)
        server.server.end()
        assert await idle[0].read() == b""
        assert not slow.done()
        assert await slow == (200, b"")
        await server.ended()


async def test_told_twice_it_waits_for_nothing() -> None:
    async with running() as server:
        slow = asyncio.create_task(answer(server.port, b"GET /9000 HTTP/1.1\r\nhost: x\r\n\r\n"))
        await asyncio.sleep(0.1)
        server.server.end()
        server.server.end()
        await server.ended()
        assert server.steps == ["start"]
        slow.cancel()


async def test_it_ends_by_itself_once_it_is_of_no_use() -> None:
    useful = True
    async with running(Life(is_useful=lambda: useful)) as server:
        assert await answer(server.port, GET + CLOSE + b"\r\n") == (200, b"")
        useful = False
        await server.ended()
        assert server.server.gave_up
