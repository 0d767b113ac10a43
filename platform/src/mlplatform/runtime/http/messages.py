"""A request and its reply, as far as a connection uses them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Final, NewType

from mlplatform.runtime.units import MIB

Line = NewType("Line", bytes)
"""A header of a reply in the form in which it is sent; only `line` makes one."""

MAX_BODY_BYTES: Final = MIB

_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
_CLOSE: Final = b"connection: close\r\n"


def line(name: bytes, value: bytes) -> Line:
    """A header of a reply.

    Raises:
        ValueError: the header holds a line break, which would begin another header or end the head.
    """
    made = b"%b: %b" % (name, value)
    if b"\n" in made or b"\r" in made:
        raise ValueError(f"header {name!r} has a line break")
    return Line(made + b"\r\n")


JSON: Final = line(b"content-type", b"application/json")


class Reply:
    """A whole answer, without its length and connection headers, which are added when it is
    sent."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, body: bytes, headers: Sequence[Line] = (JSON,), status: int = 200) -> None:
        self.body = body
        self.headers = headers
        self.status = status

    def sent(self, *, closes: bool = False, to_head: bool = False) -> bytes:
        """The bytes on the wire: head and body in one.

        Args:
            closes: whether the connection ends after this answer.
            to_head: whether the request was HEAD; then the answer has the body's length but not the
                body.
        """
        length = b"content-length: %d\r\n\r\n" % len(self.body)
        if closes:
            length = _CLOSE + length
        body = b"" if to_head else self.body
        return b"".join((_STATUS_LINES[self.status], *self.headers, length, body))


class Refusal(Exception):
    """A request that the connection itself refuses.

    Args:
        name: name of the reason, which programs can rely on.
        detail: a sentence for a person.
    """

    def __init__(
        self, status: int, name: str, detail: str, retry_after_s: int | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.name = name
        self.detail = detail
        self.retry_after_s = retry_after_s


def _nothing() -> None: ...


class Request:
    """One HTTP request; its body may still be arriving.

    Args:
        path: the decoded path, without the query.
        headers: lower-case name → value; the last one of a repeated header.
        is_last: whether no further request is read from its connection.
        limit_bytes: largest size of the body.
    """

    __slots__ = (
        "_body",
        "_limit_bytes",
        "_waiter",
        "admit",
        "headers",
        "is_answered",
        "is_broken",
        "is_last",
        "is_taken",
        "is_too_large",
        "is_whole",
        "method",
        "path",
        "task",
        "wanted",
    )

    def __init__(
        self,
        method: str,
        path: str,
        headers: Mapping[bytes, bytes],
        *,
        is_last: bool = False,
        limit_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.is_last = is_last
        self.is_whole = self.is_too_large = self.is_broken = False
        self.is_taken = self.is_answered = False  # by the application, now or later
        self.wanted: Callable[[], None] | None = None
        """Function that tells a sender that waits for it (Expect) that its body is wanted."""
        self.admit: Callable[[], object] = _nothing
        """Function that tells the connection that the sender of this request has proven who it
        is."""
        self.task: asyncio.Task[None] | None = None
        self._limit_bytes = limit_bytes
        self._body: bytes | bytearray = b""
        self._waiter: asyncio.Future[None] | None = None

    async def body(self) -> bytes:
        """The whole body, once it has come.

        Raises:
            Refusal: 413 if the body is larger than the limit; 408 if the connection ended before
                the body did.
        """
        if not (self.is_whole or self.is_too_large or self.is_broken):
            if self.wanted is not None:
                self.wanted()
                self.wanted = None
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self.arrived_body()

    @property
    def arrived(self) -> bytes:
        """The part of the body that has come so far."""
        return bytes(self._body)

    def arrived_body(self) -> bytes:
        """The body, once `is_whole`.

        Raises:
            Refusal: for the same reasons as in `body`.
        """
        if self.is_too_large:
            detail = f"the body is larger than {self._limit_bytes} bytes"
            raise Refusal(413, "too-large", detail)
        if self.is_broken:
            raise Refusal(408, "incomplete", "the connection ended before the body did")
        body = self._body
        return body if type(body) is bytes else bytes(body)

    def take(self, part: bytes) -> None:
        """Add a part of the body that has come."""
        body = self._body
        if not body:
            self._body = part
        else:
            self._body = body = bytearray(body) if type(body) is bytes else body
            body += part
        if len(self._body) > self._limit_bytes:
            self.turn_too_large()

    def turn_too_large(self) -> None:
        """Note that the body is too large, or will be; nothing of it is kept."""
        self.is_too_large = True
        self._body = b""
        self._wake_waiter()

    def complete(self) -> None:
        """Note that the body is complete."""
        self.is_whole = True
        self._wake_waiter()

    def mark_broken(self) -> None:
        """Note that the rest of the body will not come."""
        self.is_broken = True
        self._wake_waiter()

    def _wake_waiter(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
