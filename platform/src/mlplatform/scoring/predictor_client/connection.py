"""One kept-alive HTTP connection to a predictor, one call at a time."""

from __future__ import annotations

import asyncio
from typing import cast

import httptools

from mlplatform.model.oip import Reply

MAX_REPLY_BYTES = 4 * 1024 * 1024


class Connection(asyncio.Protocol):
    """Sends whole requests and gathers whole answers; `usable` until anything goes wrong.

    Our own because a general client costs more than half of a scoring request's processor time
    (docs/performance.md); it speaks to our own predictors only.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.usable = False
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Reply] | None = None
        self._reset()

    async def call(self, request: bytes) -> Reply:
        """The answer to a request.

        Raises:
            ConnectionError: the connection broke, or what came is not HTTP.
        """
        if self._transport is None or not self.usable:
            raise ConnectionResetError("connection is closed")
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
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"not HTTP: {error}")
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > MAX_REPLY_BYTES:
            self._fail(f"answer is larger than {MAX_REPLY_BYTES} bytes")
            self.close()
            return
        self._parts.append(body)

    def on_message_complete(self) -> None:
        reply = Reply(self._parser.get_status_code(), self._headers, b"".join(self._parts))
        if not self._parser.should_keep_alive():
            self.close()
        self._reset()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(reply)

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        self._size = 0

    def _fail(self, problem: str) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionResetError(problem))
