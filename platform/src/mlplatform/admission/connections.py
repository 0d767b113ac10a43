"""Limits on connections: how many, how large a head, and how long a request takes to arrive.

What uvicorn's protocol leaves open: it waits for ever for a request that was begun, or that never
comes, and takes any number of headers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from mlplatform.admission.whole_answer import WholeAnswer
from mlplatform.gateway.problems import Problem

MAX_CONNECTIONS = 4096
MAX_HEADERS = 100
MAX_HEAD_BYTES = 16 * 1024
ARRIVAL_S = 10.0
"""From a connection's or a request's first byte to its last: 1 MB on a slow line takes less."""


class BoundedHttp(HttpToolsProtocol):
    """HTTP/1.1 that ends what exceeds its limits, with a problem that says so.

    A request that arrives whole at once, as most do, costs no timer, and its answer one write.
    """

    max_connections = MAX_CONNECTIONS
    arrival_s = ARRIVAL_S
    refused: Callable[[str], None] = staticmethod(lambda reason: None)

    _timer: asyncio.TimerHandle | None = None
    _idle_since_s: float | None = None
    _is_arriving = False
    _is_in_head = True
    _head_bytes = 0
    _problem: Problem | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            detail = f"{self.max_connections} connections are open already"
            self._end(Problem(503, "too-many-connections", detail, retry_after_s=1))
            return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._is_in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._is_arriving and self._is_in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._end(_head_too_large())
        elif not self._is_arriving:
            self._unwatch()
        elif self._timer is None:
            self._watch()

    def on_message_begin(self) -> None:
        self._is_arriving = self._is_in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        # Counted exactly only where what arrived could be too much.
        too_long = self._head_bytes > MAX_HEAD_BYTES and _size(self.headers) > MAX_HEAD_BYTES
        if too_long or len(self.url) > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self._problem = _head_too_large()
            raise httptools.HttpParserError("the head is too large")
        self._is_in_head = False
        self._head_bytes = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._is_arriving = False
        self._is_in_head = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        # The timer stays while requests come: setting it for each costs more than looking at it.
        self._idle_since_s = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._wait_idle(self.timeout_keep_alive)

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since_s = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        super()._start_asgi_task(cycle, WholeAnswer(cycle, app))

    def send_400_response(self, msg: str) -> None:
        """What uvicorn answers when the parser gives up."""
        self._end(self._problem or Problem(400, "malformed-http", msg))

    def timeout_keep_alive_handler(self) -> None:
        # Closing waits until what was written is read; who does not read is not waited for.
        if self.transport.get_write_buffer_size():
            self.refused("slow-reader")
            self.transport.abort()
            return
        super().timeout_keep_alive_handler()

    def _wait_idle(self, wait_s: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(wait_s, self._idle)

    def _idle(self) -> None:
        self.timeout_keep_alive_task = None
        if self._idle_since_s is None:
            return
        left_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self._wait_idle(left_s)
        else:
            self.timeout_keep_alive_handler()

    def _watch(self) -> None:
        self._timer = self.loop.call_later(self.arrival_s, self._late)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self.flow.read_paused:  # it is not the sender who keeps the rest waiting
            self._watch()
            return
        detail = f"the request did not arrive within {self.arrival_s:g} s"
        self._end(Problem(408, "slow-request", detail))

    def _end(self, problem: Problem) -> None:
        """Answer, unless an answer is under way, and close."""
        self._unwatch()
        self.refused(problem.name)
        cycle: Any = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(_response(problem))
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()


def bounded(refused: Callable[[str], None]) -> type[BoundedHttp]:
    """The protocol for a server; `refused` is told why a connection was ended."""
    return type("BoundedHttp", (BoundedHttp,), {"refused": staticmethod(refused)})


def _size(headers: list[tuple[bytes, bytes]]) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers)


def _head_too_large() -> Problem:
    detail = f"the head may have {MAX_HEADERS} headers and {MAX_HEAD_BYTES} bytes"
    return Problem(431, "head-too-large", detail)


def _response(problem: Problem) -> bytes:
    body = problem.body
    headers = [*problem.headers, (b"content-length", str(len(body)).encode())]
    headers.append((b"connection", b"close"))
    head = b"".join(b"%s: %s\r\n" % header for header in headers)
    title = problem.details.title.encode()
    return b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (problem.status, title, head, body)
