"""Payments as fast as they are answered, over a fixed number of connections: a closed loop.

A process of its own. It ends after --seconds, prints what came back as JSON, and has asked for
every key once: an answer that never came is counted as `cut_off`.
"""

from __future__ import annotations

import argparse
import array
import asyncio
import collections
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvloop

from support.scoring_world import MODEL, payment

REQUESTS_PER_CONNECTION = 500
"""Then another is opened: whichever gateway wakes first may have taken all of the first ones."""
RETRY_S = 0.05
LAST_ANSWERS_S = 10.0


class Tally:
    """What came back."""

    def __init__(self, bearer: str, end_s: float) -> None:
        self.end_s = end_s
        self.statuses: collections.Counter[int] = collections.Counter()
        self.latencies_ms = array.array("f")
        self.degraded = self.cut_off = self.sent = 0
        self._head = (
            f"POST /api/v1/models/{MODEL}/score HTTP/1.1\r\nHost: gateway\r\n"
            f"Authorization: {bearer}\r\nContent-Type: application/json\r\nIdempotency-Key: soak-"
        )

    def request(self) -> bytes:
        """The next payment, under a key of its own; one in fifty is reviewed."""
        number, self.sent = self.sent, self.sent + 1
        body = json.dumps(payment(float(number * 37 % 510), customer=number % 9973))
        return f"{self._head}{number}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()

    def answered(self, status: int, body: bytes, took_s: float) -> None:
        self.statuses[status] += 1
        self.degraded += b'"degraded":true' in body
        self.latencies_ms.append(took_s * 1000)

    def report(self, seconds: float) -> dict[str, Any]:
        took_ms = sorted(self.latencies_ms)
        return {
            "sent": self.sent,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "cut_off": self.cut_off,
            "degraded": self.degraded,
            "seconds": round(seconds, 1),
            "requests_per_s": round(len(took_ms) / seconds),
            **{f"p{name}_ms": _at(took_ms, share) for name, share in (("50", 0.5), ("99", 0.99))},
            "worst_ms": _at(took_ms, 1.0),
        }


def _at(values: Sequence[float], share: float) -> float:
    return round(values[min(len(values) - 1, int(share * len(values)))], 2) if values else 0.0


class Connection(asyncio.Protocol):
    """One request after the other until it has had its share or the time is over."""

    def __init__(self, tally: Tally, closed: Callable[[], None]) -> None:
        self._tally = tally
        self._closed = closed
        self._left = REQUESTS_PER_CONNECTION
        self._is_waiting = False
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._tally.cut_off += self._is_waiting
        self._closed()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        start = head.lower().find(b"content-length:")
        if not separator or len(body) < int(head[start + 15 :].split(b"\r\n", 1)[0]):
            return
        self._is_waiting, self._buffer = False, b""
        self._tally.answered(int(head[9:12]), body, time.monotonic() - self._sent_s)
        self._send()

    def _send(self) -> None:
        self._sent_s = time.monotonic()
        if self._left <= 0 or self._sent_s >= self._tally.end_s:
            self._transport.close()
            return
        self._left -= 1
        self._is_waiting = True
        self._transport.write(self._tally.request())


async def _keep_asking(tally: Tally, port: int) -> None:
    loop = asyncio.get_running_loop()
    while time.monotonic() < tally.end_s:
        closed = asyncio.Event()
        try:
            transport, _ = await loop.create_connection(
                lambda event=closed: Connection(tally, event.set), "127.0.0.1", port
            )
        except OSError:
            await asyncio.sleep(RETRY_S)
            continue
        try:
            async with asyncio.timeout(tally.end_s + LAST_ANSWERS_S - time.monotonic()):
                await closed.wait()
        except TimeoutError:
            transport.abort()
            await closed.wait()


async def _run(options: argparse.Namespace) -> dict[str, Any]:
    began_s = time.monotonic()
    bearer = f"Bearer {options.key_file.read_text().strip()}"
    tally = Tally(bearer, began_s + options.seconds)
    async with asyncio.TaskGroup() as group:
        for _ in range(options.connections):
            group.create_task(_keep_asking(tally, options.port))
    return tally.report(time.monotonic() - began_s)


def main() -> None:
    """Asks until the time is over, and tells."""
    parser = argparse.ArgumentParser(prog="tests.drills.soak_client", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key-file", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--connections", type=int, required=True)
    print(json.dumps(uvloop.run(_run(parser.parse_args()))))


if __name__ == "__main__":
    main()
