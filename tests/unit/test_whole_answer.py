"""Answers in one write: what of an answer goes out when."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from mlplatform.admission.connections import BoundedHttp

LENGTH = (b"content-length", b"5")


class Transport(asyncio.Transport):
    """Keeps what is written, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


async def answered(
    *messages: dict[str, Any], request: bytes = b"GET / HTTP/1.1\r\n\r\n"
) -> Transport:
    """What a connection wrote whose application sends these messages."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
    config.load()
    config.loaded_app = app
    transport = Transport()
    protocol = BoundedHttp(config, ServerState(), {}, asyncio.get_running_loop())
    protocol.connection_made(transport)
    protocol.data_received(request)
    await asyncio.gather(*protocol.tasks)
    protocol.connection_lost(OSError("over"))
    return transport


def start(*headers: tuple[bytes, bytes], status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(content: bytes, **more: Any) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, **more}


async def test_an_answer_with_its_length_is_one_write() -> None:
    transport = await answered(start((b"a", b"b"), LENGTH), body(b"12345"))
    assert transport.writes == [b"HTTP/1.1 200 OK\r\na: b\r\ncontent-length: 5\r\n\r\n12345"]
    assert not transport.is_closed


async def test_an_answer_that_says_close_closes() -> None:
    transport = await answered(start((b"connection", b"close"), LENGTH), body(b"12345"))
    assert transport.is_closed
    assert b"".join(transport.writes).count(b"connection: close") == 1


async def test_a_caller_that_wants_no_more_is_told_that_it_is_closed() -> None:
    request = b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"
    transport = await answered(start(LENGTH), body(b"12345"), request=request)
    assert transport.is_closed
    assert b"".join(transport.writes).count(b"connection: close") == 1


async def test_an_answer_in_parts_goes_out_as_they_come() -> None:
    transport = await answered(start(), body(b"12", more_body=True), body(b"345"))
    assert b"transfer-encoding: chunked" in transport.writes[0]
    assert transport.writes[1:] == [b"2\r\n12\r\n", b"3\r\n345\r\n0\r\n\r\n"]


async def test_a_head_asked_for_alone_comes_alone() -> None:
    request = b"HEAD / HTTP/1.1\r\n\r\n"
    transport = await answered(start(LENGTH), body(b"12345"), request=request)
    assert b"".join(transport.writes) == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"


@pytest.mark.parametrize("value", [b"x\r\ny: z", b"x\ny: z", b"x\ry"])
async def test_a_header_cannot_begin_another_line(value: bytes) -> None:
    transport = await answered(start((b"a", value), LENGTH), body(b"12345"))
    assert b"".join(transport.writes).startswith(b"HTTP/1.1 500 ")
    assert b"y: z" not in b"".join(transport.writes)


async def test_a_body_of_another_length_than_said_is_not_sent() -> None:
    transport = await answered(start(LENGTH), body(b"123456"))
    assert b"123456" not in b"".join(transport.writes)
    assert transport.is_closed


async def test_an_application_that_ends_after_its_start_answers_500() -> None:
    transport = await answered(start(LENGTH))
    assert b"".join(transport.writes).startswith(b"HTTP/1.1 500 ")
