"""The open loop's client: what is due is sent, when it is due, and every answer counts."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest
from tests.bench.open_loop import Load, Ticks, figures

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="its timer is Linux's own")
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def test_ticks_come_at_their_interval_whoever_waits() -> None:
    """One that was missed is not made up for: the next comes when it is due."""
    began_s = time.monotonic()
    with Ticks(0.01) as ticks:
        for _ in range(3):
            await ticks.next()
        assert time.monotonic() - began_s >= 0.03
        time.sleep(0.05)  # held up, for five of them
        await ticks.next()
        caught_up_s = time.monotonic()
        for _ in range(2):
            await ticks.next()
        assert time.monotonic() - caught_up_s >= 0.01


async def test_all_that_is_due_is_sent_and_latency_counts_from_then() -> None:
    """A server that answers after 20 ms, over fewer connections than that takes at this rate: what
    waits for a free one is late, and counted so."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.read(1000):
            asked.append(request)
            await asyncio.sleep(0.02)
            writer.write(ANSWER)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        load = Load(f"http://127.0.0.1:{port}/", lambda n: b"%d" % n, rate=200.0, connections=2)
        async with asyncio.timeout(20):
            await load.run(0.4, 0.1)
        found = figures(load, 200.0)
        for connection in load._free:
            connection.transport.close()
    assert sorted(map(int, asked)) == list(range(100))
    assert found["requests"] == 80  # those of the warm-up are not counted
    assert found["statuses"] == {"200": 80}
    assert found["unanswered"] == 0
    assert found["p50_ms"] > 40.0
