"""Connections that ask for too much, by raw sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from mlplatform.admission.connections import MAX_HEAD_BYTES, MAX_HEADERS, bounded

GET = b"GET / HTTP/1.1\r\nhost: x\r\n"


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            seen.append("disconnect")
            return
        body += message.get("body", b"")
        more = message.get("more_body", False)
    seen.append(body)
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


seen: list[Any] = []
refused: list[str] = []


@pytest.fixture
async def port() -> AsyncIterator[int]:
    seen.clear()
    refused.clear()
    protocol = bounded(refused.append)
    protocol.arrival_s = 0.5
    protocol.max_connections = 5
    config = uvicorn.Config(echo, port=0, http=protocol, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = server.force_exit = True
    with contextlib.suppress(asyncio.CancelledError):
        await task


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


CLOSE = b"connection: close\r\n"


@pytest.mark.parametrize(
    ("parts", "status", "name"),
    [
        pytest.param([], 408, "slow-request", id="nothing at all"),
        pytest.param([GET], 408, "slow-request", id="half a head"),
        pytest.param([GET, *[b"a: b\r\n"] * 20], 408, "slow-request", id="a header at a time"),
        pytest.param(
            [GET + b"content-length: 9\r\n\r\n", *[b"x"] * 8], 408, "slow-request", id="slow body"
        ),
        pytest.param(
            [GET + b"a: b\r\n" * MAX_HEADERS + b"\r\n"], 431, "head-too-large", id="many headers"
        ),
        pytest.param(
            [GET + b"a: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n"],
            431, "head-too-large", id="a large header",
        ),
        pytest.param(
            [GET + b"a: ", *[b"x" * 4096] * 6], 431, "head-too-large", id="a head without end"
        ),
        pytest.param(
            [b"GET /" + b"x" * MAX_HEAD_BYTES + b" HTTP/1.1\r\n\r\n"],
            431, "head-too-large", id="a long path",
        ),
        pytest.param([b"nonsense\r\n\r\n"], 400, "malformed-http", id="no HTTP"),
    ],
)  # fmt: skip
async def test_it_is_ended_with_a_problem(
    port: int, parts: list[bytes], status: int, name: str
) -> None:
    found, body = await answer(port, *parts, pause_s=0.03 if len(parts) > 1 else 0.0)
    assert (found, json.loads(body)["type"]) == (status, f"urn:mlplatform:problem:{name}")
    assert refused == [name]
    assert not any(isinstance(body, bytes) for body in seen)


async def test_what_is_within_the_limits_is_answered(port: int) -> None:
    body = b"x" * 300_000
    head = GET + b"a: b\r\n" * (MAX_HEADERS - 3) + CLOSE
    sent = head + b"content-length: %d\r\n\r\n" % len(body) + body
    assert await answer(port, sent) == (200, body)
    assert await answer(port, head[:50], head[50:] + b"\r\n", pause_s=0.1) == (200, b"")
    assert refused == []


async def test_an_idle_connection_outlives_the_time_a_request_may_take(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(2):
        writer.write(GET + b"\r\n")
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.7)
    writer.close()
    assert refused == []


async def test_one_connection_too_many_is_told_so(port: int) -> None:
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
    await asyncio.sleep(0.05)
    status, body = await answer(port)
    assert (status, json.loads(body)["type"][-20:]) == (503, "too-many-connections")
    for _, writer in held:
        writer.close()
