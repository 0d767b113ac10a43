"""Load at a constant rate: latency counts from when a request was due, so no stall is hidden.

Source: G. Tene, "How NOT to Measure Latency" (coordinated omission).
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import uvloop

DRAIN_S = 5.0
MAX_WAITING = 20_000
TICK_S = 0.00025
"""How late a request may leave at most because of this client, if it has a core to itself."""


class Connection(asyncio.Protocol):
    """One keep-alive connection that carries one request at a time."""

    def __init__(self, ended: Callable[[Connection, int, bytes], None]) -> None:
        self._ended = ended
        self._buffer = b""
        self.transport: Any = None
        self.due_s = 0.0
        self.is_open = False

    def connection_made(self, transport: Any) -> None:
        self.transport, self.is_open = transport, True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self.due_s:
            self._ended(self, 0, b"")

    def ask(self, request: bytes, due_s: float) -> None:
        self.due_s, self._buffer = due_s, b""
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        lower = self._buffer[:head].lower()
        at = lower.find(b"content-length:")
        length = int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self._buffer) >= head + 4 + length:
            self._ended(self, int(self._buffer[9:12]), self._buffer[head + 4 :])


class Ticks:
    """Wakes the loop at an interval, by Linux's own timer: a loop's timers count in milliseconds,
    so that it would either send too late or spin, and take the core of what answers."""

    def __init__(self, interval_s: float) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._file = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        nanoseconds = max(1, int(interval_s * 1e9))
        pair = divmod(nanoseconds, 1_000_000_000)
        # struct itimerspec: interval and first tick, each in seconds and nanoseconds
        setting = (ctypes.c_long * 4)(*pair, *pair)
        if self._file < 0 or self._libc.timerfd_settime(self._file, 0, setting, None):
            raise OSError(ctypes.get_errno(), "no timer")
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None

    def __enter__(self) -> Ticks:
        self._loop.add_reader(self._file, self._tick)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.remove_reader(self._file)
        os.close(self._file)

    def next(self) -> asyncio.Future[None]:
        """Done at the next tick."""
        self._waiter = self._loop.create_future()
        return self._waiter

    def _tick(self) -> None:
        os.read(self._file, 8)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Load:
    """A constant arrival rate over a fixed set of connections; what finds none free waits."""

    def __init__(
        self, url: str, requests: Callable[[int], bytes], rate: float, connections: int
    ) -> None:
        self._address = urlsplit(url)
        self._requests = requests
        self._rate = rate
        self._count = connections
        self._free: deque[Connection] = deque()  # the one that rested longest goes first
        self._waiting: deque[tuple[bytes, float]] = deque()
        self.latencies_s: list[float] = []
        self.statuses: dict[int, int] = {}
        self.dropped = 0
        self._replacing: set[asyncio.Future[None]] = set()
        self._busy = 0

    async def run(self, seconds: float, warm_up_s: float) -> None:
        for _ in range(self._count):
            self._free.append(await self._connect())
        begin_s = time.monotonic()
        self._measured_from_s = begin_s + warm_up_s
        total = int((seconds + warm_up_s) * self._rate)
        sent = 0
        with Ticks(max(TICK_S, 1 / self._rate)) as ticks:
            while sent < total:
                due = min(total, int((time.monotonic() - begin_s) * self._rate) + 1)
                while sent < due:
                    self._send(self._requests(sent), begin_s + sent / self._rate)
                    sent += 1
                await ticks.next()
        end_s = time.monotonic() + DRAIN_S
        while (self._busy or self._waiting) and time.monotonic() < end_s:
            await asyncio.sleep(0.01)

    @property
    def unanswered(self) -> int:
        return self._busy + len(self._waiting) + self.dropped

    def _send(self, request: bytes, due_s: float) -> None:
        while self._free:
            connection = self._free.popleft()
            if connection.is_open:
                self._busy += 1
                connection.ask(request, due_s)
                return
            self._replacing.add(asyncio.ensure_future(self._replace()))
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append((request, due_s))
        else:
            self.dropped += 1

    def _ended(self, connection: Connection, status: int, body: bytes) -> None:
        now_s = time.monotonic()
        if connection.due_s >= self._measured_from_s:
            self.latencies_s.append(now_s - connection.due_s)
            self.statuses[status] = self.statuses.get(status, 0) + 1
        connection.due_s = 0.0
        self._busy -= 1
        if not connection.is_open:
            self._replacing.add(asyncio.ensure_future(self._replace()))
        elif self._waiting:
            request, due_s = self._waiting.popleft()
            self._busy += 1
            connection.ask(request, due_s)
        else:
            self._free.append(connection)

    async def _replace(self) -> None:
        self._free.append(await self._connect())

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        host, port = self._address.hostname, self._address.port
        _, connection = await loop.create_connection(lambda: Connection(self._ended), host, port)
        return connection


def figures(load: Load, rate: float) -> dict[str, Any]:
    """Rate and percentiles in milliseconds of one run."""
    values = np.array(load.latencies_s or [float("nan")]) * 1000
    p50, p99, p999 = (float(np.percentile(values, q)) for q in (50, 99, 99.9))
    return {
        "rate": rate,
        "requests": len(load.latencies_s),
        "p50_ms": round(p50, 3),
        "p99_ms": round(p99, 3),
        "p999_ms": round(p999, 3),
        "statuses": {str(status): n for status, n in sorted(load.statuses.items())},
        "unanswered": load.unanswered,
    }


def head_and_tail(url: str, headers: dict[str, str], body: bytes) -> tuple[bytes, bytes]:
    """An HTTP/1.1 request as bytes: up to where one more header line may stand, and from there."""
    parts = urlsplit(url)
    lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}", ""]
    return "\r\n".join(lines).encode(), b"\r\n" + body


def main() -> None:
    """Reads a JSON file with url, headers, bodies and whether each needs a key; prints figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--warm-up-s", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    spec = json.loads(options.spec.read_text())
    prefix = f"open-{time.time_ns()}".encode()
    made = [head_and_tail(spec["url"], spec["headers"], b.encode()) for b in spec["bodies"]]

    def request(number: int) -> bytes:
        head, tail = made[number % len(made)]
        key = b"Idempotency-Key: %s-%d\r\n" % (prefix, number) if spec["keyed"] else b""
        return head + key + tail

    load = Load(spec["url"], request, options.rate, options.connections)
    gc.freeze()
    gc.disable()  # nothing here has cycles, and its pauses are not the server's
    uvloop.run(load.run(options.seconds, options.warm_up_s))
    json.dump(figures(load, options.rate), sys.stdout)


if __name__ == "__main__":
    main()
