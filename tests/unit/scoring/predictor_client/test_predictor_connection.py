"""An answer belongs to the call that it was sent for, whatever else a server sends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from mlplatform.scoring.predictor_client.connection import Connection

REQUEST = b"GET / HTTP/1.1\r\n\r\n"
MOST = 1000


def answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@asynccontextmanager
async def connected(*replies: Sequence[bytes]) -> AsyncIterator[Connection]:
    """A connection to a server that sends these parts, one by one, for each request."""
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for parts in replies:
            await reader.readuntil(b"\r\n\r\n")
            for part in parts:
                writer.write(part)
                await asyncio.sleep(0.01)  # so the parts are read one by one
        await ended.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(address), *address)
    yield connection
    connection.close()
    ended.set()
    server.close()


@pytest.mark.parametrize("status", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
@pytest.mark.parametrize("apart", [True, False], ids=["apart", "in one piece"])
async def test_an_interim_answer_is_none(status: bytes, apart: bool) -> None:
    interim = b"HTTP/1.1 %b\r\nLink: </x>\r\n\r\n" % status
    replies = [
        (interim, interim, answer(body)) if apart else (interim + answer(body),)
        for body in (b"one", b"two", b"three")
    ]
    async with connected(*replies) as connection:
        found = [await connection.call(REQUEST, MOST) for _ in replies]
        assert [reply.body for reply in found] == [b"one", b"two", b"three"]
        assert all(b"link" not in reply.headers for reply in found)


@pytest.mark.parametrize(
    "more",
    [answer(b"two"), b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 103 Early Hints\r\n\r\n", b"0"],
    ids=["an answer", "a head", "an interim answer", "no HTTP"],
)
@pytest.mark.parametrize("apart", [True, False], ids=["apart", "in one piece"])
async def test_a_connection_ends_by_data_that_nothing_asked_for(more: bytes, apart: bool) -> None:
    parts = (answer(b"one"), more) if apart else (answer(b"one") + more,)
    async with connected(parts, [answer(b"three")]) as connection:
        assert (await connection.call(REQUEST, MOST)).body == b"one"
        await asyncio.sleep(0.05)
        assert not connection.usable
        with pytest.raises(ConnectionError):
            await connection.call(REQUEST, MOST)


async def test_a_change_of_protocol_is_no_answer() -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    async with connected([switch + answer(b"one")]) as connection:
        with pytest.raises(ConnectionError, match="not HTTP"):
            await connection.call(REQUEST, MOST)
        assert not connection.usable


@pytest.mark.parametrize(
    ("head", "more"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x" * 90),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1;%b\r\nx\r\n" % (b"x" * 80)),
        (b"HTTP/1.1 200 OK\r\n", b"X-One: %b\r\n" % (b"x" * 80)),
        (b"HTTP/1.1 200 OK\r\nX-One: ", b"x" * 90),
        (b"", b"HTTP/1.1 103 Early Hints\r\nX-One: %b\r\n\r\n" % (b"x" * 50)),
    ],
    ids=["a body", "chunks", "headers", "a header", "interim answers"],
)
async def test_an_answer_ends_where_it_gets_too_large(head: bytes, more: bytes) -> None:
    async with connected([head, *[more] * 20]) as connection:
        with pytest.raises(ConnectionError, match="larger than 1000 bytes"):
            await asyncio.wait_for(connection.call(REQUEST, MOST), 2)
        assert not connection.usable


async def test_each_answer_may_be_as_large_as_the_first() -> None:
    body = b"x" * (MOST - len(answer(b"x" * 900)) + 900)
    async with connected(*[[answer(body)]] * 3) as connection:
        assert [len((await connection.call(REQUEST, MOST)).body) for _ in range(3)] == [
            len(body)
        ] * 3
