"""Limits of connections for servers on uvicorn, which limits neither heads nor waiting.

Source: uvicorn's protocols for httptools and websockets, which are private to it and pinned.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from mlplatform.runtime.http.connection import MAX_HEAD_BYTES, MAX_HEADERS
from mlplatform.runtime.http.ended_connections import EndedConnections
from mlplatform.runtime.http.open_connections import ConnectionLimits, OpenConnections
from mlplatform.runtime.http.peers import Peers
from mlplatform.runtime.http.server import connections_within
from mlplatform.runtime.processes.inherited_socket import inherited_socket
from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter
from mlplatform.runtime.telemetry.refusals import Refusals
from mlplatform.runtime.units import MIB

BACKLOG: Final = 128
"""Connections that the kernel queues for the listener; this many may be open and not counted."""

MAX_PIPELINED: Final = 16
MAX_MESSAGE_BYTES: Final = 2 * MIB
"""Most bytes of a WebSocket message; an event of Prefect's may have 1.5 MB."""
CHECK_S: Final = 1
"""Seconds between two checks of connections; their limits are kept to this precision."""
LATE_S: Final = 3 * CHECK_S
"""Seconds between two checks after which the server itself was busy."""

_RATE_LIMIT: Final = RateLimitFilter()


@dataclass(frozen=True, slots=True)
class UvicornLimits:
    """The limits of connections.

    Args:
        connections: number of connections of all clients together.
        strangers: how many of them may belong to clients that were not admitted.
        arrival_s: for clients that were not admitted, seconds from the first byte of a connection
            or request to its last, and for the client to read an answer.
        transfer_s: the same for admitted clients, because bundles and pages take longer.
        idle_s: seconds between two requests.
    """

    connections: int = 192
    strangers: int = 64
    arrival_s: float = 10.0
    transfer_s: float = 300.0
    idle_s: int = 5


LIMITS: Final = UvicornLimits()


class _Connection(Protocol):
    """A connection as its listener sees it."""

    transport: asyncio.Transport
    client: tuple[str, int] | None

    def __hash__(self) -> int: ...

    def overdue(self, now_s: float, limit_s: float) -> str | None:
        """Why the connection has to end, if it has waited for longer than the limit; empty if it
        never sent anything, like a browser's spare connection."""
        ...


class ListenerConnections:
    """The connections of one listener: which are open, which were admitted, and which have to end.

    Args:
        name: name of the listener in refusals.
        refusals: where ended connections are reported.
    """

    def __init__(
        self, name: str, refusals: Refusals | None = None, limits: UvicornLimits = LIMITS
    ) -> None:
        self.limits = limits
        room = connections_within(limits.connections)
        strangers = min(limits.strangers, max(room // 2, 1))
        self._open: OpenConnections[_Connection] = OpenConnections(
            ConnectionLimits(room, strangers)
        )
        self._by_client: dict[tuple[str, int], _Connection] = {}
        self._peers = Peers()
        self._ended = EndedConnections(name, refusals)
        self._checked_s = time.monotonic()
        self._was_late = False

    def options(self) -> dict[str, Any]:
        """Arguments of `uvicorn.Config` by which the server keeps the limits.

        Headers of proxies are not taken: a connection's peer is the process that opened it.
        """
        # A line that a stranger can cause is logged at most once a second.
        logging.getLogger("uvicorn.error").addFilter(_RATE_LIMIT)
        return {
            "http": partial(LimitedHttp, self),
            "ws": partial(LimitedWebSocket, self),
            "callback_notify": self.check_limits,
            "timeout_notify": CHECK_S,
            "timeout_keep_alive": self.limits.idle_s,
            "backlog": BACKLOG,
            "proxy_headers": False,
            "ws_max_size": MAX_MESSAGE_BYTES,
            "ws_per_message_deflate": False,  # messages are held as they were sent
        }

    def admit(self, scope: MutableMapping[str, Any]) -> None:
        """Note that the sender of this ASGI request has proven who it is, so that its connection
        keeps its place."""
        client = scope.get("client")
        held = None if client is None else self._by_client.get(tuple(client))
        if held is not None:
            self._open.admit(held)

    def is_admitted(self, held: _Connection) -> bool:
        return self._open.is_admitted(held)

    async def check_limits(self) -> None:
        """End connections that have waited for too long. Called once a second.

        A check that comes late ends nothing: while the server was busy, what clients sent lay
        unread. The next check counts, however late it comes.
        """
        now_s = time.monotonic()
        self._was_late = not self._was_late and now_s - self._checked_s > LATE_S
        self._checked_s = now_s
        if self._was_late:
            return
        for held in self._open:
            is_known = self._open.is_admitted(held)
            limit_s = self.limits.transfer_s if is_known else self.limits.arrival_s
            reason = held.overdue(now_s, limit_s)
            if reason is not None:
                self._end(held, reason)
        self._ended.store()

    def on_opened(self, held: _Connection) -> None:
        if held.client is not None:
            self._by_client[held.client] = held
        info = held.transport.get_extra_info
        peer = self._peers.of(info("sockname"), info("peername"))
        victim = self._open.add(held, peer)
        if victim is not None:
            self._end(victim, "to make room")

    def on_closed(self, held: _Connection) -> None:
        self._open.remove(held)
        if held.client is not None and self._by_client.get(held.client) is held:
            del self._by_client[held.client]

    def count(self, held: _Connection, reason: str) -> None:
        """Count a connection that ends itself."""
        self._ended.count(reason, self._open.peer(held))

    def _end(self, held: _Connection, reason: str) -> None:
        if reason:
            self._ended.count(reason, self._open.peer(held))
        self.on_closed(held)
        held.transport.abort()


def serve(
    application: Any, connections: ListenerConnections, *, host: str, port: int, stop_s: int
) -> None:
    """Serve an ASGI application within a listener's limits, until SIGTERM or SIGINT.

    It listens on the socket that a supervisor has handed down, else on host and port.

    Args:
        stop_s: seconds in which requests must be finished after the signal.

    Raises:
        SystemExit: the server did not start; its log says why.
    """
    server = uvicorn.Server(
        uvicorn.Config(
            application,
            host=host,
            port=port,
            log_level="warning",
            log_config=None,  # lines are ours
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=stop_s,
            **connections.options(),
        )
    )
    handed_down = inherited_socket()
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=None if handed_down is None else [handed_down])
    if not server.started:
        raise SystemExit(1)


class _TooMuch(Exception):
    """The rest of what comes is not read."""


class LimitedHttp(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, with bounded heads, pipelines and waits."""

    def __init__(self, connections: ListenerConnections, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections = connections
        self._refused: tuple[int, str] | None = None
        self._is_arriving = True  # a new connection must send something
        self._has_begun = False  # its first byte has come
        self._since_s = time.monotonic()
        self._unread = _UnreadOutput()
        self._bare_bytes = 0  # read since the last request began or had a body
        self._has_progressed = False
        self._header_count = self._header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._connections.on_opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.on_closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused is not None or self.transport.is_closing():
            return
        if not self._is_arriving:
            self._is_arriving = True
            self._since_s = time.monotonic()
        self._has_begun = True
        self._has_progressed = False
        super().data_received(data)
        if self._is_arriving and not self.transport.is_closing():
            self._bare_bytes = 0 if self._has_progressed else self._bare_bytes + len(data)
            if self._bare_bytes > MAX_HEAD_BYTES:
                self._refuse_head()
                self.send_400_response("")

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refuse(503, f"at most {MAX_PIPELINED} requests wait on a connection")
            raise _TooMuch
        self._is_arriving = self._has_progressed = True
        self._since_s = time.monotonic()
        self._header_count = self._header_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url), 0)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value) + 4, 1)
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._has_progressed = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_arriving = self._has_begun = False
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._connections.on_closed(self)  # the WebSocket protocol adds it again
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        if self._refused is None:
            super().send_400_response(msg)
            return
        status, detail = self._refused
        if self.cycle is None or self.cycle.response_complete:
            body = detail.encode()
            head = b"content-type: text/plain\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
            self.transport.write(STATUS_LINE[status] + head % len(body) + body)
        self.transport.close()

    def overdue(self, now_s: float, limit_s: float) -> str | None:
        if self._unread.lasts(self.transport, now_s) > limit_s:
            return "slow to read"
        if not self._is_arriving or now_s - self._since_s <= limit_s:
            return None
        return "slow to ask" if self._has_begun else ""

    def _count_head(self, size: int, headers: int) -> None:
        """Count the bytes of a head; trailers count as part of it."""
        self._header_bytes += size
        self._header_count += headers
        if self._header_bytes > MAX_HEAD_BYTES or self._header_count > MAX_HEADERS:
            self._refuse_head()
            raise _TooMuch

    def _refuse_head(self) -> None:
        detail = f"a head has at most {MAX_HEADERS} headers and {MAX_HEAD_BYTES} bytes"
        self._refuse(431, detail)

    def _refuse(self, status: int, detail: str) -> None:
        self._refused = status, detail
        self._connections.count(self, "too large" if status == 431 else "too many requests at once")


class _UnreadOutput:
    """Since when a peer has not read what it was sent."""

    def __init__(self) -> None:
        self._since_s: float | None = None

    def lasts(self, transport: asyncio.Transport, now_s: float) -> float:
        """Seconds since output was left unread; 0 if all was read."""
        if not transport.get_write_buffer_size():
            self._since_s = None
            return 0.0
        if self._since_s is None:
            self._since_s = now_s
        return now_s - self._since_s


class LimitedWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket. It ends unless it is admitted, and then only if its peer does not read.

    An admitted client may be silent; uvicorn's pings end the connection of a client that is gone.
    """

    def __init__(self, connections: ListenerConnections, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections = connections
        self._since_s = time.monotonic()
        self._unread = _UnreadOutput()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connections.on_opened(cast(_Connection, self))

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.on_closed(cast(_Connection, self))
        super().connection_lost(exc)

    def overdue(self, now_s: float, limit_s: float) -> str | None:
        if self._unread.lasts(self.transport, now_s) > limit_s:
            return "slow to read"
        is_late = (
            not self._connections.is_admitted(cast(_Connection, self))
            and now_s - self._since_s > limit_s
        )
        return "slow to ask" if is_late else None
