"""A limit on the connections of Prefect's control channel for flow runs.

Prefect waits five seconds for a token on each connection and counts none of them: a flood would
take every open file of the process that serves its API too.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from mlplatform.runtime.http.open_connections import ConnectionLimits, OpenConnections
from mlplatform.runtime.http.peers import Peers

if TYPE_CHECKING:  # Prefect reads its environment when it is imported
    from prefect.runner._control_channel import ControlChannel

CONNECTION_LIMITS: Final = ConnectionLimits(connections=160, strangers=32)
TOKEN_S: Final = 5
"""Seconds that Prefect allows for a connection's first line; stated here for the table of
listeners."""


def limit_strangers(channel: ControlChannel) -> None:
    """Have a channel that does not listen yet end the oldest stranger for a new connection.

    Prefect has no public way to do so; the version is pinned.
    """
    held: OpenConnections[asyncio.StreamWriter] = OpenConnections(CONNECTION_LIMITS)
    peers = Peers()
    inner = channel._handle_connection

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for registration in channel._registrations.values():
            if registration.writer is not None:
                held.admit(registration.writer)
        info = writer.get_extra_info
        victim = held.add(writer, peers.of(info("sockname"), info("peername")))
        if victim is not None:
            held.remove(victim)
            victim.transport.abort()
        try:
            await inner(reader, writer)
        finally:
            held.remove(writer)

    channel._handle_connection = handle  # type: ignore[method-assign]
