"""Prefect's control of flow runs beside connections that never say who they are."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from prefect.runner._control_channel import ControlChannel

from mlplatform.operations.prefect_server.control_channel import CONNECTION_LIMITS, limit_strangers


async def test_a_run_connects_and_stays_beside_any_number_of_silent_connections() -> None:
    channel = ControlChannel()
    limit_strangers(channel)
    async with channel:
        run = uuid4()
        port, token = channel.register(run)
        _, own = await asyncio.open_connection("127.0.0.1", port)
        own.write(f"{token}\n".encode())
        async with asyncio.timeout(5):
            await channel._registrations[run].connected.wait()

        silent = [
            await asyncio.open_connection("127.0.0.1", port)
            for _ in range(CONNECTION_LIMITS.strangers + 9)
        ]
        ended = [reader for reader, _ in silent[:9]]
        for reader in ended:
            async with asyncio.timeout(4):  # before Prefect's own limit
                try:
                    assert await reader.read() == b""
                except ConnectionResetError:
                    continue
        later = uuid4()
        port, token = channel.register(later)
        _, other = await asyncio.open_connection("127.0.0.1", port)
        other.write(f"{token}\n".encode())
        async with asyncio.timeout(5):
            await channel._registrations[later].connected.wait()

        assert channel._registrations[run].writer is not None
        for writer in (own, other, *(writer for _, writer in silent)):
            writer.close()
