"""The life of a server: it listens, answers, and ends without losing a request."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import uvloop

from mlplatform.runtime.http.connection import Application, Connection, HttpLimits, ServerState
from mlplatform.runtime.http.ended_connections import EndedConnections
from mlplatform.runtime.processes.shutdown_signals import called_at_signals

BACKLOG: Final = 512
OTHER_FILES: Final = 2 * BACKLOG + 512 + 256
"""Open files besides these connections: those that two listeners may have accepted before anybody
counts them, gRPC's connections, and files that are needed for answers."""

CHECK_S: Final = 1.0
"""Seconds between two checks of connections; their limits are kept to this precision."""

_TICK_S: Final = 0.1


def connections_within(wanted: int) -> int:
    """The number of the wanted connections for which this process may have open files.

    The soft limit of open files is raised as far as necessary and allowed. If connections could use
    all of it, a file that is needed to answer or to record could not be opened.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + OTHER_FILES
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < needed:
        soft = needed if hard == unlimited else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == unlimited:
        return wanted
    return max(min(wanted, soft - min(OTHER_FILES, soft // 2)), 1)


async def _nothing() -> None: ...


@dataclass(frozen=True, slots=True)
class Life:
    """The steps around serving.

    Args:
        start: called before the first connection is accepted.
        begin_drain: called at the signal to end. Connections are still accepted, and each is closed
            after an answer.
        stop: called after the last request is answered.
        is_useful: returns False once the server must end by itself.
        linger_s: seconds after `begin_drain` for which connections are accepted. A request that was
            under way then is answered, and its sender learns that the connection ends.
        drain_s: seconds after that in which requests must be finished.
    """

    start: Callable[[], Awaitable[None]] = _nothing
    begin_drain: Callable[[], None] = lambda: None
    stop: Callable[[], Awaitable[None]] = _nothing
    is_useful: Callable[[], bool] = lambda: True
    linger_s: float = 0.2
    drain_s: float = 10.0


class Server:
    """Serves an application on sockets that listen, until SIGTERM, SIGINT or `end`; in another
    thread than the main one, until the process ends, and not with `run`, whose loop is native.

    A second signal ends it without waiting for anything. `gave_up` says that it ended by itself.

    Args:
        ended: counts connections that were ended because of a limit.
    """

    def __init__(
        self,
        application: Application,
        sockets: Sequence[socket.socket],
        life: Life | None = None,
        limits: HttpLimits | None = None,
        ended: EndedConnections | None = None,
    ) -> None:
        self._application = application
        self._sockets = sockets
        self._life = life or Life()
        self._limits = limits or HttpLimits()
        self._ended = ended
        self._ending = asyncio.Event()
        self._is_forced = False
        self.gave_up = False
        self._check_s = min(CHECK_S, self._limits.arrival_s / 4)

    def run(self) -> None:
        """Serve on an event loop of its own."""
        uvloop.run(self.serve())

    def end(self) -> None:
        """End the server; a second call ends it at once."""
        self._is_forced = self._ending.is_set()
        self._ending.set()

    async def serve(self) -> None:
        """Serve. Returns when everything is answered and stopped."""
        with called_at_signals(self.end):
            await self._serve()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        shared = ServerState(self._application, _within_files(self._limits), self._ended)
        life = self._life
        await life.start()
        listening = [
            await loop.create_server(lambda: Connection(shared), sock=sock, backlog=BACKLOG)
            for sock in self._sockets
        ]
        watching = asyncio.create_task(self._watch(shared))
        await self._ending.wait()
        life.begin_drain()
        shared.is_draining = True
        await self._unless_forced(time.monotonic() + life.linger_s, lambda: False)
        for server in listening:
            server.close()
        for connection in tuple(shared.connections):
            connection.close_idle()
        await self._unless_forced(time.monotonic() + life.drain_s, lambda: not shared.owes_answers)
        watching.cancel()
        shared.close()
        if not self._is_forced:
            await life.stop()

    async def _unless_forced(self, until_s: float, is_done: Callable[[], bool]) -> None:
        while not (self._is_forced or is_done()) and time.monotonic() < until_s:
            await asyncio.sleep(0.01)

    async def _watch(self, shared: ServerState) -> None:
        next_check_s = time.monotonic() + self._check_s
        while True:
            await asyncio.sleep(min(_TICK_S, self._check_s))
            if not self._ending.is_set() and not self._life.is_useful():
                self.gave_up = True
                self.end()
            now_s = time.monotonic()
            if now_s >= next_check_s:
                next_check_s = now_s + self._check_s
                for connection in tuple(shared.connections):
                    connection.check_limits(now_s)
                if self._ended is not None:
                    self._ended.store()


def _within_files(limits: HttpLimits) -> HttpLimits:
    """The limits, with their share of strangers, reduced if there are few open files."""
    room = connections_within(limits.connections)
    strangers = max(limits.strangers * room // limits.connections, 1)
    return replace(limits, connections=room, strangers=strangers)
