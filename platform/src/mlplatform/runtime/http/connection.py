"""One HTTP/1.1 connection: requests as they come, whole answers in order, and its limits.

Source: RFC 9112 for messages and connections; their syntax is llhttp's, through httptools.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast
from urllib.parse import unquote

import httptools

from mlplatform.runtime.http.ended_connections import EndedConnections
from mlplatform.runtime.http.messages import MAX_BODY_BYTES, Refusal, Reply, Request
from mlplatform.runtime.http.open_connections import ConnectionLimits, OpenConnections
from mlplatform.runtime.http.peers import Peers
from mlplatform.runtime.units import KIB

MAX_HEADERS: Final = 100
MAX_HEAD_BYTES: Final = 16 * KIB
_HEAD_SLACK_BYTES: Final = 1024  # bytes of an unfinished head that do not count later
MAX_PIPELINED: Final = 64
"""Most requests of one connection that wait for their turn; later ones are not read yet."""

MAX_DISCARDED_BYTES: Final = 16 * MAX_BODY_BYTES
"""Most bytes that are read and discarded, so that their sender gets to read the answer."""

LINGER_S: Final = 2.0
"""Seconds for which bytes after a last answer are read: closing on them could lose the answer."""

_MAX_KEPT_PATHS: Final = 256
_METHODS: Final = {name: name.decode() for name in (b"GET", b"HEAD", b"POST")}
_VERSIONS: Final = ("1.0", "1.1")
_ONCE: Final = frozenset(
    b"host authorization content-type expect transfer-encoding idempotency-key x-request-timeout-ms"
    b" x-priority inference-header-content-length mlplatform-version".split()
)
"""Headers of one value, refused if they are repeated: a system in between may have read the other
one. `Host`: RFC 9112 section 3.2; the parser itself refuses a second `Content-Length`."""

_HOST: Final = re.compile(
    rb"(?:\[[0-9A-Za-z:.%_~-]+\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?"
)
"""`uri-host [":" port]`, or nothing. Source: RFC 9112 section 3.2, RFC 3986 section 3.2.2."""

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_REPORTED: Final = frozenset(
    ("too-many-connections", "slow-request", "slow-reader", "head-too-large")
)
"""Reasons of ends that a person should know of; data that is merely not HTTP is only counted."""

log = logging.getLogger(__name__)

Answer = Reply | Coroutine[Any, Any, Reply]


class Application(Protocol):
    """The code that answers requests."""

    def answer(self, request: Request) -> Answer:
        """A reply, or a future of one; a reply that waits for nothing costs no task.

        Raises:
            Refusal: the body is refused while the application waits for it.
        """
        ...

    def refusal(self, refused: Refusal) -> Reply:
        """The application's reply to a request that the connection refuses."""
        ...

    def on_ended(self, reason: str) -> None:
        """Note that a connection was ended for a reason."""
        ...


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """The limits of connections.

    Args:
        connections: number of connections of all clients together.
        strangers: how many of them may belong to clients that have not proven who they are. For one
            more, the oldest connection of the peer that holds most of them gets an error and is
            closed.
        arrival_s: seconds from the first byte of a connection or request to its last; enough for 1
            MB on a slow line.
        idle_s: seconds between two requests, and for the client to read an answer.
    """

    connections: int = 4096
    strangers: int = 1024
    arrival_s: float = 10.0
    idle_s: float = 75.0
    body_bytes: int = MAX_BODY_BYTES


class ServerState:
    """The state that the connections of one server share."""

    def __init__(
        self,
        application: Application,
        limits: HttpLimits,
        ended: EndedConnections | None = None,
    ) -> None:
        self.application = application
        self.limits = limits
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        strangers = min(limits.strangers, limits.connections)
        self.open: OpenConnections[Connection] = OpenConnections(
            ConnectionLimits(limits.connections, strangers)
        )
        self._peers = Peers()
        self._ended = ended
        self.answering: set[Request] = set()
        self.is_draining = False
        self._paths: dict[bytes, str] = {}
        self._host = b""

    @property
    def owes_answers(self) -> bool:
        """Whether anybody waits for an answer, or has not received all of one."""
        return bool(self.answering) or any(one.owes_answer for one in self.connections)

    def on_opened(self, connection: Connection, transport: asyncio.BaseTransport) -> None:
        """Count a new connection, and end another if it must."""
        self.connections.add(connection)
        info = transport.get_extra_info
        peer = self._peers.of(info("sockname"), info("peername"))
        victim = self.open.add(connection, peer)
        if victim is not None:
            victim.make_room()
            self.open.remove(victim)

    def on_closed(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self.open.remove(connection)

    def count_end(self, connection: Connection, reason: str) -> None:
        """Count a connection that is ended for what it did."""
        self.application.on_ended(reason)
        if self._ended is not None and reason in _REPORTED and connection in self.open:
            self._ended.count(reason, self.open.peer(connection))

    def close(self) -> None:
        self._peers.close()

    def is_host(self, value: bytes) -> bool:
        """Whether a Host may have this value; most have that of the last one."""
        if value != self._host:
            if _HOST.fullmatch(value) is None:
                return False
            self._host = value
        return True

    def path(self, url: bytes) -> str:
        """The decoded path of a target; the few frequent ones are cached."""
        path = self._paths.get(url)
        if path is None:
            path = unquote((httptools.parse_url(url).path or b"/").decode("ascii"))
            if len(url) <= 128 and len(self._paths) < _MAX_KEPT_PATHS:
                self._paths[url] = path
        return path


class _NothingMore(Exception):
    """The rest of the input is not read."""


class Connection(asyncio.Protocol):
    """Gives the application one request at a time, and ends what exceeds its limits.

    A request that arrives whole, as most do, is answered where it is read, with one write. There
    are no timers here: one check a second of all connections costs less than a timer for each.
    """

    __slots__ = (
        "_bodiless_bytes",
        "_current",
        "_discarded",
        "_final_error",
        "_first_bytes",
        "_head_bytes",
        "_headers",
        "_incoming",
        "_is_arriving",
        "_is_closing",
        "_is_heard_out",
        "_is_last",
        "_is_paused",
        "_is_stranger",
        "_is_write_paused",
        "_parser",
        "_queue",
        "_raw_left",
        "_read_bytes",
        "_read_closed",
        "_repeated",
        "_repeated_bytes",
        "_shared",
        "_since_s",
        "_transport",
        "_url",
    )

    def __init__(self, shared: ServerState) -> None:
        self._shared = shared
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[Request] = deque()
        self._current: Request | None = None  # with the application
        self._incoming: Request | None = None  # its head is complete, its body is not
        self._final_error: Refusal | None = None  # sent after the earlier answers
        self._headers: dict[bytes, bytes] = {}
        self._url = b""
        self._read_bytes = 0  # bytes of the newest read
        self._head_bytes = 0  # of the head, read earlier; -1 if it begins in the newest read
        self._first_bytes = 0  # of those, read with its first byte
        self._repeated = self._repeated_bytes = 0  # repeated headers
        self._bodiless_bytes = 0  # read since bytes of a body; -1 if the newest read has some
        self._raw_left = 0  # bytes left of a body that the parser does not know
        self._discarded = 0
        self._is_arriving = True  # a new connection must send something
        self._is_last = False  # no other request is read
        self._read_closed = False  # what is read is dropped
        self._is_closing = False  # nothing more is written
        self._is_stranger = True  # the sender has proven nothing
        self._is_heard_out = False  # the peer has sent its last byte, and it was read
        self._is_paused = self._is_write_paused = False
        self._since_s = time.monotonic()  # start of the present wait

    @property
    def owes_answer(self) -> bool:
        """Whether a request is to be answered, or an answer may not have arrived yet."""
        transport = self._transport
        is_over = self._is_closing and transport.is_closing()
        return not is_over or transport.get_write_buffer_size() > 0

    # Calls of the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._shared.on_opened(self, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.on_closed(self)
        self._read_closed = self._is_closing = True
        self._queue.clear()
        if self._incoming is not None:
            self._incoming.mark_broken()
        self._parser = None

    def eof_received(self) -> bool:
        """A peer that has closed its sending side still gets its answers."""
        last = self._queue[-1] if self._queue else self._current
        self._is_heard_out = True
        if last is None or self._is_closing:
            return False
        self._read_closed = last.is_last = True
        self._is_arriving = False
        if self._incoming is not None:
            self._incoming.mark_broken()
        return True

    def pause_writing(self) -> None:
        self._is_write_paused = True

    def resume_writing(self) -> None:
        self._is_write_paused = False
        self._go_on()

    def data_received(self, data: bytes) -> None:
        if self._read_closed:
            self._discard(len(data))
            return
        was_arriving = self._is_arriving
        self._read_bytes = len(data)
        try:
            if self._raw_left:
                self._feed_other_protocol(data)
            else:
                self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._feed_other_protocol(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._stop(error)
        if self._is_arriving:
            self._on_partial_request(was_arriving)

    # Calls of the parser.

    def on_message_begin(self) -> None:
        if len(self._queue) >= MAX_PIPELINED:
            self._is_last = self._queue[-1].is_last = True
        if self._is_last:
            raise _NothingMore
        self._is_arriving = True
        self._headers = {}
        self._head_bytes = -1
        self._repeated = 0
        self._url = b""

    def on_url(self, url: bytes) -> None:
        self._url = self._url + url if self._url else url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._incoming is not None:  # a trailer after a body is dropped
            return
        name, headers = name.lower(), self._headers
        if name in headers:
            self._repeat(name, headers[name])
        headers[name] = value

    def on_headers_complete(self) -> None:
        headers, parser, limits = self._headers, self._parser, self._shared.limits
        self._check_head()
        is_last = not parser.should_keep_alive()
        host = headers.get(b"host")
        if host is None:
            if parser.get_http_version() == "1.1":
                raise Refusal(
                    400, "malformed-http", "the Host header is missing; HTTP/1.1 requires it"
                )
        elif not self._shared.is_host(host):
            raise Refusal(400, "malformed-http", "the Host header is not a valid host name")
        if is_last or b"connection" in headers:
            version = parser.get_http_version()
            if version not in _VERSIONS:
                raise Refusal(400, "malformed-http", f"HTTP/{version} is not supported")
            is_last = is_last or version == "1.0"
        sent = parser.get_method()
        method = _METHODS.get(sent) or sent.decode()
        path = self._shared.path(self._url) if method != "CONNECT" else self._url.decode()
        request = Request(method, path, headers, is_last=is_last, limit_bytes=limits.body_bytes)
        if self._is_stranger:
            request.admit = self._admit
        self._discarded = 0
        length = headers.get(b"content-length", b"")
        if len(length) > 5 and int(length) > limits.body_bytes:
            request.turn_too_large()
        if b"expect" in headers:
            if headers[b"expect"].lower() != b"100-continue":
                raise Refusal(417, "malformed-http", 'only "Expect: 100-continue" is supported')
            # HTTP/1.0 has no interim answers: its client would take one for the final answer.
            request.wanted = None if parser.get_http_version() == "1.0" else self._want
        coding = headers.get(b"transfer-encoding")
        if coding is not None and coding.lower() != b"chunked":
            raise Refusal(400, "malformed-http", "Transfer-Encoding may only be chunked")
        self._incoming = request
        self._bodiless_bytes = -1
        if parser.should_upgrade():
            self._stay(request)
        self._is_last = request.is_last

    def on_body(self, part: bytes) -> None:
        request = self._incoming
        assert request is not None
        self._bodiless_bytes = -1
        if request.is_answered or request.is_too_large:
            self._discard(len(part))
        else:
            request.take(part)

    def on_message_complete(self) -> None:
        if self._raw_left:  # the parser does not know this body
            return
        request = self._incoming
        assert request is not None
        self._incoming = None
        self._is_arriving = False
        request.complete()
        if not request.is_taken:
            self._take(request)

    # The course of a request.

    def _take(self, request: Request) -> None:
        """Give a request to the application, now or in its turn."""
        request.is_taken = True
        if self._current is None and not self._is_write_paused:
            self._start(request)
        else:
            self._queue.append(request)
            self._pause()

    def _start(self, request: Request) -> None:
        self._current = request
        application = self._shared.application
        try:
            answer = application.answer(request)
        except Refusal as refused:
            answer = application.refusal(refused)
        except Exception:  # noqa: BLE001 -- logged, and answered as an error
            answer = self._failed(request)
        if isinstance(answer, Reply):
            self._finish(request, answer)
        else:
            # Kept until it is done, because the event loop holds only a weak reference.
            request.task = self._shared.loop.create_task(self._answer(request, answer))
            self._shared.answering.add(request)

    async def _answer(self, request: Request, answer: Coroutine[Any, Any, Reply]) -> None:
        try:
            reply = await answer
        except Refusal as refused:
            reply = self._shared.application.refusal(refused)
        except Exception:  # noqa: BLE001 -- logged, and answered as an error
            reply = self._failed(request)
        finally:
            self._shared.answering.discard(request)
        self._finish(request, reply)
        if self._queue or self._is_paused or self._final_error:
            self._go_on()

    def _failed(self, request: Request) -> Reply:
        log.exception("%s %s failed", request.method, request.path, extra={"sent": request.arrived})
        return self._shared.application.refusal(Refusal(500, "internal", "the log says why"))

    def _finish(self, request: Request, reply: Reply) -> None:
        if request is not self._current:  # it was refused meanwhile
            return
        self._current = None
        if self._is_closing:
            return
        closes = request.is_last or request.is_too_large or request.is_broken
        if not request.is_whole:
            # A sender that never got `100 Continue` may send another request in the body's place.
            request.is_answered = True
            closes = closes or request.wanted is not None
        closes = closes or (self._shared.is_draining and not self._queue)
        self._transport.write(reply.sent(closes=closes, to_head=request.method == "HEAD"))
        if closes:
            self._close()
        else:
            self._since_s = time.monotonic()

    def _go_on(self) -> None:
        """Start the next request, else send the final error, else read on."""
        while self._queue and self._current is None and not self._is_write_paused:
            self._start(self._queue.popleft())
        if self._queue or self._is_closing:
            return
        if self._current is None and self._final_error is not None:
            self._say(self._final_error)
        elif self._current is self._incoming or self._current is None:
            self._resume()

    # The end of the connection.

    def check_limits(self, now_s: float) -> None:
        """End the connection if it has waited for too long."""
        limits, waited_s = self._shared.limits, now_s - self._since_s
        if self._is_closing:
            if waited_s > LINGER_S and not self._transport.get_write_buffer_size():
                self._transport.abort()
            elif waited_s > limits.idle_s:
                self._abort_slow_reader()
        elif self._is_arriving and not self._is_paused:
            if waited_s > limits.arrival_s and not self._read_closed:
                detail = f"the request did not arrive within {limits.arrival_s:g} s"
                self._refuse(Refusal(408, "slow-request", detail))
        elif self._current is None and waited_s > limits.idle_s:
            if self._transport.get_write_buffer_size():
                self._abort_slow_reader()
            else:
                self._transport.close()

    def make_room(self) -> None:
        """End this connection for a new one; its peer gets an error if it still reads."""
        if self._is_closing or self._transport.get_write_buffer_size():
            self._shared.count_end(self, "too-many-connections")
            self._transport.abort()
            return
        detail = f"{self._shared.open.strangers} connections without a known client are open"
        self._refuse(Refusal(503, "too-many-connections", detail, retry_after_s=1))
        self._transport.close()

    def close_idle(self) -> None:
        """Close the connection unless somebody waits for an answer."""
        begun = self._is_arriving and self._read_bytes
        if self._current is None and not self._queue and not begun:
            self._transport.close()

    def _abort_slow_reader(self) -> None:
        self._shared.count_end(self, "slow-reader")
        self._transport.abort()

    def _stop(self, error: httptools.HttpParserError) -> None:
        """Handle bytes that are not, or no longer, HTTP."""
        cause = error.__context__
        is_after_last = self._is_last and self._incoming is None
        if isinstance(cause, _NothingMore) or is_after_last:
            self._read_closed = self._is_arriving = True
            if self._queue or self._current:
                self._pause()
        elif isinstance(cause, Refusal):
            self._refuse(cause)
        else:
            self._refuse(Refusal(400, "malformed-http", f"this is not HTTP: {error}"))

    def _refuse(self, refusal: Refusal) -> None:
        """Refuse what is arriving, after the answers that are owed before it, and end."""
        self._shared.count_end(self, refusal.name)
        self._read_closed = True
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming.mark_broken()
            if incoming.is_answered:
                self._close()
                return
            if incoming is self._current:
                self._current = None
            elif incoming.is_taken:
                self._queue.remove(incoming)
        if self._current is None and not self._queue:
            self._say(refusal)
        else:
            self._final_error = refusal
            self._pause()

    def _say(self, refusal: Refusal) -> None:
        self._transport.write(self._shared.application.refusal(refusal).sent(closes=True))
        self._close()

    def _close(self) -> None:
        """Close after the last answer. Closing with unread bytes resets the connection, and a reset
        discards what the peer has not read yet. So bytes that the peer still sends are read and
        discarded.

        Source: RFC 9112 section 9.6.
        """
        self._is_closing = self._read_closed = True
        has_sent_all = self._is_last and not self._is_arriving and not self._is_paused
        if self._is_heard_out or has_sent_all:
            self._transport.close()
            return
        self._transport.write_eof()
        self._since_s = time.monotonic()
        self._discarded = 0
        self._resume()

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > MAX_DISCARDED_BYTES:
            self._transport.abort()

    # Details.

    def _on_partial_request(self, was_arriving: bool) -> None:
        """Check the head of a request that is not complete yet, or give it to the application
        so."""
        if not was_arriving:
            self._since_s = time.monotonic()
        request = self._incoming
        if request is None:
            if self._head_bytes < 0:
                self._head_bytes = self._first_bytes = self._read_bytes
            else:
                self._head_bytes += self._read_bytes
            surely_bytes = self._head_bytes - self._first_bytes
            if surely_bytes > MAX_HEAD_BYTES + _HEAD_SLACK_BYTES and not self._read_closed:
                self._refuse(_head_too_large())
        elif self._is_body_missing():
            self._refuse(_head_too_large())
        elif not request.is_taken:
            self._take(request)
        if self._current is not None and self._current is not request:
            self._pause()

    def _is_body_missing(self) -> bool:
        """Whether what comes in a body's place (trailers, names of chunks) goes on for too long.

        The parser keeps a trailer until it ends, and could take all the event loop's time.
        """
        fresh_bytes = 0 if self._bodiless_bytes < 0 else self._read_bytes
        self._bodiless_bytes = max(self._bodiless_bytes, 0) + fresh_bytes
        return self._bodiless_bytes > MAX_HEAD_BYTES

    def _check_head(self) -> None:
        if len(self._headers) + self._repeated > MAX_HEADERS:
            raise _head_too_large()
        # Counted exactly only if it could be too much.
        if max(self._head_bytes, 0) + self._read_bytes > MAX_HEAD_BYTES:
            size = len(self._url) + (self._repeated_bytes if self._repeated else 0)
            size += sum(len(name) + len(value) + 4 for name, value in self._headers.items())
            if size > MAX_HEAD_BYTES:
                raise _head_too_large()

    def _repeat(self, name: bytes, value: bytes) -> None:
        if name in _ONCE:
            raise Refusal(400, "malformed-http", f"the header {name.decode()} occurs twice")
        if not self._repeated:
            self._repeated_bytes = 0
        self._repeated += 1
        self._repeated_bytes += len(name) + len(value) + 4

    def _stay(self, request: Request) -> None:
        """Go on with HTTP/1.1 although another protocol is wanted, as RFC 9110 section 7.8 allows.

        The parser takes the next bytes for the other protocol, so a body's bytes are counted here.
        """
        if request.method == "CONNECT":
            request.is_last = True
        elif b"transfer-encoding" in request.headers:
            raise Refusal(400, "malformed-http", "protocol upgrades are not supported")
        else:
            self._raw_left = int(request.headers.get(b"content-length", b"0"))

    def _feed_other_protocol(self, data: bytes) -> None:
        """Read on where the parser expected another protocol."""
        while data and not self._read_closed:
            part = data[: self._raw_left]
            if part:
                self._raw_left -= len(part)
                self.on_body(part)
                data = data[len(part) :]
                if not self._raw_left:
                    self.on_message_complete()
                continue
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                self._stop(error)

    def _admit(self) -> None:
        self._is_stranger = not self._shared.open.admit(self)

    def _want(self) -> None:
        if not self._is_closing:
            self._transport.write(_CONTINUE)

    def _pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._since_s = time.monotonic()
            self._transport.resume_reading()


def _head_too_large() -> Refusal:
    detail = f"head and trailers may have {MAX_HEADERS} headers and {MAX_HEAD_BYTES} bytes"
    return Refusal(431, "head-too-large", detail)
