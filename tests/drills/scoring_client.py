"""Payments at a constant rate, as an application sends them: with a key, and again with the same.

A process of its own, so that the work of a drill delays no request. One JSON line for each
request goes to a file as soon as it is over; SIGTERM ends the load, after what is under way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import msgspec
import uvloop

from support.scoring_world import MODEL, payment

ATTEMPTS = 3
"""Of which at most one follows a connection that broke, or nothing came for PATIENCE_S."""
PATIENCE_S = 3.0
LONGEST_RETRY_S = 1.0
CONFLICT_RETRY_S = 0.05
AGAIN = (409, 429, 503)
REVIEWED_FROM = 500
"""The amount from which the models of tests review: one payment in fifty."""


class SentRequest(msgspec.Struct):
    """What became of one request; times are of the monotonic clock.

    Args:
        sent_s: when it first went out; much later than due, and the client was held up.
        first_s: when the first whole response came, an answer or a refusal; None: none came.
        status: of the last response; 0 for none.
    """

    key: str
    due_s: float
    sent_s: float = 0.0
    first_s: float | None = None
    status: int = 0
    attempts: int = 0
    broken: int = 0
    degraded: bool = False
    reason: str | None = None
    answered_by: str = ""
    decision_id: str = ""
    problem: str = ""


class Connection(asyncio.Protocol):
    """One request at a time; usable until it breaks."""

    def __init__(self) -> None:
        self.usable = False
        self._waiter: asyncio.Future[tuple[bytes, bytes]] | None = None
        self._buffer = b""
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport, self.usable = transport, True

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionResetError("closed before the answer"))

    async def ask(self, request: bytes) -> tuple[bytes, bytes]:
        """Head and body of the answer."""
        self._waiter, self._buffer = asyncio.get_running_loop().create_future(), b""
        self._transport.write(request)
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._waiter
        except TimeoutError:
            self._transport.abort()
            raise

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        length = header(head, b"content-length") if separator else None
        if length is not None and len(body) >= int(length) and self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result((head, body))
            if header(head, b"connection") == b"close":
                self.usable = False


def header(head: bytes, name: bytes) -> bytes | None:
    for line in head.split(b"\r\n")[1:]:
        found, _, value = line.partition(b":")
        if found.strip().lower() == name:
            return value.strip().lower()
    return None


class Load:
    """Sends payment after payment, each when it is due, whatever became of those before."""

    def __init__(
        self, port: int, bearer: str, prefix: str, tell: Callable[[SentRequest], None]
    ) -> None:
        self._port = port
        self._bearer = bearer
        self._prefix = prefix
        self._tell = tell
        self._idle: list[Connection] = []

    async def run(self, rate: float, stopping: asyncio.Event) -> None:
        """Sends until it is told to stop; then waits for what was sent."""
        began_s, number = time.monotonic(), 0
        async with asyncio.TaskGroup() as group:
            while not stopping.is_set():
                due_s = began_s + number / rate
                while due_s <= time.monotonic():
                    group.create_task(self._pay(number, due_s))
                    number += 1
                    due_s = began_s + number / rate
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))

    async def _pay(self, number: int, due_s: float) -> None:
        sent = SentRequest(f"{self._prefix}-{number}", due_s, sent_s=time.monotonic())
        request = self._request(number, sent.key)
        while sent.attempts < ATTEMPTS and sent.broken <= 1:
            sent.attempts += 1
            try:
                head, body = await self._exchange(request, fresh=sent.broken > 0)
            except (OSError, TimeoutError):
                sent.broken += 1
                sent.status = 0
                continue
            sent.first_s = sent.first_s or time.monotonic()
            sent.status = int(head[9:12])
            if sent.status not in AGAIN or sent.attempts == ATTEMPTS:
                break
            wait_s = float(header(head, b"retry-after") or 0)
            # An application's own retry after 409 is not held back by whole seconds.
            wait_s = CONFLICT_RETRY_S if sent.status == 409 else wait_s
            await asyncio.sleep(min(wait_s, LONGEST_RETRY_S))
        if sent.status:
            _read(sent, body)
        self._tell(sent)

    async def _exchange(self, request: bytes, *, fresh: bool) -> tuple[bytes, bytes]:
        """Head and body of the answer.

        Args:
            fresh: on a connection of its own: those that are idle may be of the same dead process.
        """
        while self._idle and not fresh:
            connection = self._idle.pop()
            if connection.usable:
                break
        else:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(Connection, "127.0.0.1", self._port)
        answer = await connection.ask(request)
        if connection.usable:
            self._idle.append(connection)
        return answer

    def _request(self, number: int, key: str) -> bytes:
        amount = float(number * 37 % (REVIEWED_FROM + 10))
        body = json.dumps(payment(amount, customer=number % 997)).encode()
        head = (
            f"POST /api/v1/models/{MODEL}/score HTTP/1.1\r\nHost: gateway\r\n"
            f"Authorization: {self._bearer}\r\nContent-Type: application/json\r\n"
            f"Idempotency-Key: {key}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def _read(sent: SentRequest, body: bytes) -> None:
    said = json.loads(body)
    if sent.status == 200:
        sent.degraded, sent.reason = said["degraded"], said["degraded_reason"]
        sent.answered_by, sent.decision_id = said["answered_by"], said["decision_id"]
    else:
        sent.problem = str(said.get("type", "")).rpartition(":")[2]


def _writer(out: IO[bytes]) -> Callable[[SentRequest], None]:
    encoder = msgspec.json.Encoder()
    return lambda sent: [out.write(encoder.encode(sent) + b"\n"), out.flush()][1]


async def _run(options: argparse.Namespace) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    bearer = f"Bearer {options.key_file.read_text().strip()}"
    with options.out.open("ab") as out:
        load = Load(options.port, bearer, options.prefix, _writer(out))
        await load.run(options.rate, stopping)


def main() -> None:
    """Sends until SIGTERM."""
    parser = argparse.ArgumentParser(prog="tests.drills.scoring_client", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key-file", type=Path, required=True)
    parser.add_argument("--prefix", required=True, help="of idempotency keys")
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--out", type=Path, required=True)
    uvloop.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
