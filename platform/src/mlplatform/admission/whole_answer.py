"""An answer in one write: uvicorn makes a system call of its head and another of its body."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

Message = MutableMapping[str, Any]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Any, Send], Awaitable[None]]

_LENGTH: Final = b"content-length"


class WholeAnswer:
    """An application of one exchange whose answer is sent when all of it is there.

    What has no length, goes in parts or answers HEAD is left to uvicorn.
    """

    __slots__ = ("_app", "_cycle", "_start")

    def __init__(self, cycle: RequestResponseCycle, app: App) -> None:
        self._cycle = cycle
        self._app = app
        self._start: Message | None = None

    def __call__(self, scope: Any, receive: Any, send: Send) -> Awaitable[None]:
        return self._app(scope, receive, self.send)

    async def send(self, message: Message) -> None:
        """Keep the start of an answer until its body comes."""
        start, cycle = self._start, self._cycle
        if start is None and message["type"] == "http.response.start":
            self._start = message
            return
        self._start = None
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if cycle.disconnected:
            return
        head = None if start is None else self._head(start, message)
        if head is not None:
            self._finish(head + message["body"])
            return
        if start is not None:
            await cycle.send(start)  # type: ignore[arg-type]
        await cycle.send(message)  # type: ignore[arg-type]

    def _head(self, start: Message, message: Message) -> bytes | None:
        """The head of an answer that is whole with this message; None for any other."""
        cycle = self._cycle
        if message.get("more_body", False) or cycle.scope["method"] == "HEAD" or cycle.access_log:
            return None
        headers = [*cycle.default_headers, *start["headers"]]
        length, says_close = -1, False
        for name, value in headers:
            if name == _LENGTH:
                length = int(value)
            elif name == b"connection":
                says_close = b"close" in value.lower()
        if length != len(message["body"]):
            return None
        if says_close:
            cycle.keep_alive = False
        elif not cycle.keep_alive:
            headers.append((b"connection", b"close"))
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        # A header that holds a line break would be two, or the end of the head.
        if lines.count(b"\n") != len(headers) or lines.count(b"\r") != len(headers):
            raise RuntimeError("a header has a line break")
        return STATUS_LINE[start["status"]] + lines + b"\r\n"

    def _finish(self, answer: bytes) -> None:
        cycle = self._cycle
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.transport.write(answer)
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
