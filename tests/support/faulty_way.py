"""A way to a gateway that spoils some of what it carries: a proxy in a thread of the test.

Each request meets the next fault of a cycle. The gateway sees every request but those of `refused`.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Literal

Fault = Literal[
    "well", "refused", "lost", "cut", "late", "garbage", "page", "busy", "large", "redirect"
]
LARGE_BYTES = 200_000
ANSWERED: dict[Fault, bytes] = {
    "garbage": (
        b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{"score":'
    ),
    "page": (
        b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>"
    ),
    "busy": (
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n"
        b"content-length: 78\r\n\r\n"
        b'{"type":"urn:mlplatform:problem:overloaded","detail":"too much","status": 503}'
    ),
    "large": (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99999999\r\n\r\n"
        + b" " * LARGE_BYTES
    ),
    "redirect": (
        b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\n"
        b"content-length: 0\r\n\r\n"
    ),
}
"""What the caller gets in place of the gateway's answer."""


class FaultyWay:
    """A listener in front of a port of this machine.

    Args:
        late_s: how long `late` holds an answer back, seconds.
    """

    def __init__(self, upstream_port: int, faults: Sequence[Fault], late_s: float) -> None:
        self.met: Counter[Fault] = Counter()
        self._upstream_port = upstream_port
        self._faults = itertools.cycle(faults)
        self._late_s = late_s
        self._loop = asyncio.new_event_loop()
        server = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = self._loop.run_until_complete(server)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._carry(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # one of them has gone, or the test is over: the other goes too
        finally:
            writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and what becomes of it; whether the connection stays."""
        request = await _message(reader)
        fault = next(self._faults)
        self.met[fault] += 1
        if fault == "refused":
            return False
        answer = await self._answer(request)
        if fault == "late":
            await asyncio.sleep(self._late_s)
        sent = ANSWERED.get(fault, answer)
        if fault == "cut":
            sent = answer[: len(answer) // 2]
        if fault != "lost":
            writer.write(sent)
            await writer.drain()
        return fault in ("well", "late", "garbage", "page", "busy", "redirect")

    async def _answer(self, request: bytes) -> bytes:
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        try:
            upstream.write(request)
            return await _message(upstream_reader)
        finally:
            upstream.close()


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [
        int(line.partition(b":")[2])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    ]
    return head + await reader.readexactly(sum(lengths))
