"""Limits on who may hold a gRPC listener's connections, which gRPC itself does not have.

gRPC counts connections and ends idle ones, but a call whose message never comes is not idle, and a
listener that is full of silent ones lets nobody in. Source: grpc.github.io, arguments of channels.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from mlplatform.runtime.http.ended_connections import EndedConnections
from mlplatform.runtime.http.open_connections import ConnectionLimits, OpenConnections
from mlplatform.runtime.http.peers import Peers

MAX_CONNECTIONS: Final = 512
MAX_STRANGERS: Final = 128
"""Most connections on which no call has named a key or a token."""

ARRIVAL_S: Final = 10.0
"""Seconds that a stranger's connection lives; probes open another."""

CHECK_S: Final = 0.25
_FILES: Final = Path("/proc/self/fd")
_PEER: Final = re.compile(r"ipv[46]:\[?(.+?)\]?:(\d+)")


@dataclass(frozen=True, slots=True)
class _GrpcConnection:
    """One connection of this process: its file, and that file's identity, which no other file
    has."""

    descriptor: int
    inode: int
    local: tuple[str, int]
    remote: tuple[str, int]


class GrpcConnections:
    """Checks the connections of the port a few times a second, and ends those that must end.

    gRPC accepts them by itself, so they are found among the open files of the process (Linux).

    Args:
        ended: counts connections that were ended because of a limit.
    """

    def __init__(self, ended: EndedConnections | None = None) -> None:
        self._port = 0
        self._ended = ended
        self._peers = Peers()
        self._open: OpenConnections[_GrpcConnection] = OpenConnections(
            ConnectionLimits(MAX_CONNECTIONS, MAX_STRANGERS)
        )
        self._known: dict[tuple[int, int], _GrpcConnection | None] = {}
        self._by_remote: dict[tuple[str, int], _GrpcConnection] = {}
        self._since_s: dict[_GrpcConnection, float] = {}
        self._admitted: set[tuple[str, int]] = set()
        self._watching: asyncio.Task[None] | None = None

    def start(self, port: int) -> None:
        """Start the checks, in the running event loop."""
        self._port = port
        if _FILES.exists():
            self._watching = asyncio.get_running_loop().create_task(self._watch())

    def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        self._peers.close()

    def admit(self, peer: str) -> None:
        """Note that the caller on this connection has proven who it is.

        Args:
            peer: the peer in the form of the call's context: `ipv4:127.0.0.1:40000`.
        """
        found = _PEER.fullmatch(unquote(peer))
        if found is not None:
            remote = _address(found[1]), int(found[2])
            held = self._by_remote.get(remote)
            if held is None:
                self._admitted.add(remote)  # it was opened after the last check
            else:
                self._open.admit(held)

    async def _watch(self) -> None:
        while True:
            self.check_connections(time.monotonic())
            await asyncio.sleep(CHECK_S)

    def check_connections(self, now_s: float) -> None:
        """Count new and closed connections, and end those that must end."""
        here = set(self._connections())
        for held in [one for one in self._since_s if one not in here]:
            self._forget(held)
        for held in here - self._since_s.keys():
            self._count(held, now_s)
        self._admitted.clear()
        for held, since_s in tuple(self._since_s.items()):
            if not self._open.is_admitted(held) and now_s - since_s > ARRIVAL_S:
                self._end(held)
        if self._ended is not None:
            self._ended.store()

    def _count(self, held: _GrpcConnection, now_s: float) -> None:
        self._since_s[held] = now_s
        self._by_remote[held.remote] = held
        peer = self._peers.of(held.local, held.remote)
        victim = self._open.add(held, peer)
        if held.remote in self._admitted:
            self._open.admit(held)
        elif victim is not None:
            self._end(victim, "to make room")

    def _forget(self, held: _GrpcConnection) -> None:
        self._open.remove(held)
        self._since_s.pop(held, None)
        self._by_remote.pop(held.remote, None)

    def _end(self, held: _GrpcConnection, reason: str = "") -> None:
        if self._ended is not None and reason:
            self._ended.count(reason, self._open.peer(held))
        self._forget(held)
        _shut(held, self._port)

    def _connections(self) -> Iterator[_GrpcConnection]:
        known: dict[tuple[int, int], _GrpcConnection | None] = {}
        for name in os.listdir(_FILES):
            with suppress(OSError):
                status = os.fstat(int(name))
                if not stat.S_ISSOCK(status.st_mode):
                    continue
                key = int(name), status.st_ino
                known[key] = self._known[key] if key in self._known else self._connection(*key)
        self._known = known
        return (held for held in known.values() if held is not None)

    def _connection(self, descriptor: int, inode: int) -> _GrpcConnection | None:
        """The connection behind an open file; None if the file is no connection of this
        listener."""
        with suppress(OSError), _copy(descriptor) as sock:
            if sock.family not in (socket.AF_INET, socket.AF_INET6):
                return None
            local, remote = (
                (_address(end[0]), end[1]) for end in (sock.getsockname(), sock.getpeername())
            )
            return (
                _GrpcConnection(descriptor, inode, local, remote)
                if local[1] == self._port
                else None
            )
        return None


def _address(text: str) -> str:
    """An IPv4 address in its own form, whichever kind of socket took the connection."""
    return text.removeprefix("::ffff:")


def _copy(descriptor: int) -> socket.socket:
    return socket.socket(fileno=os.dup(descriptor))


def _shut(held: _GrpcConnection, port: int) -> None:
    """End a connection for gRPC, which closes it; another connection that has its file by now is
    left alone."""
    with suppress(OSError), _copy(held.descriptor) as sock:
        if os.fstat(sock.fileno()).st_ino == held.inode and sock.getsockname()[1] == port:
            sock.shutdown(socket.SHUT_RDWR)
