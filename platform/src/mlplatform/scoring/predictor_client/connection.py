"""One kept-alive HTTP connection to a predictor, one call at a time."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import cast

import httptools

from mlplatform.model.oip import Reply


class Connection(asyncio.Protocol):
    """Sends whole requests and reads whole answers; it is `usable` until anything goes wrong.

    It is our own because a general client takes more than half of a scoring request's processor
    time (docs/performance.md). The server may be another party's: data that belongs to no call ends
    the connection, so that no call gets the answer to another.

    Source: RFC 9110, section 15.2 (interim answers).
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.usable = False
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Reply] | None = None
        self._begin(0)

    async def call(self, request: bytes, most_bytes: int) -> Reply:
        """The answer to a request.

        Args:
            most_bytes: largest size of everything that is received: interim answers, headers and
                body.

        Raises:
            ConnectionError: the connection broke, or the answer is not HTTP or too large.
        """
        if self._transport is None or not self.usable:
            raise ConnectionResetError("connection is closed")
        self._begin(most_bytes)
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._waiter
        except asyncio.CancelledError:
            self.close()
            raise

    def close(self) -> None:
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.usable = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        self._fail(f"connection lost: {exc or 'closed by the predictor'}")

    def data_received(self, data: bytes) -> None:
        if not self._is_asked:
            self.close()
            return
        self._left_bytes -= len(data)
        if self._left_bytes < 0:  # before the data is parsed
            self._fail(f"answer is larger than {self._most_bytes} bytes with its headers")
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"not HTTP: {error}")
            self.close()

    def on_message_begin(self) -> None:
        if not self._is_asked:  # data that belongs to no call
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        if not self._is_asked:
            return
        status = self._parser.get_status_code()
        if status < HTTPStatus.OK:  # the answer follows
            self._headers.clear()
            return
        if not self._parser.should_keep_alive():
            self.close()
        assert self._waiter is not None
        self._waiter.set_result(Reply(status, self._headers, b"".join(self._parts)))

    @property
    def _is_asked(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    def _begin(self, most_bytes: int) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        self._most_bytes = self._left_bytes = most_bytes

    def _fail(self, problem: str) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionResetError(problem))
