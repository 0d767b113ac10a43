"""The open connections of one listener, and the choice of the one that ends for a new one."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

C = TypeVar("C", bound=Hashable)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The number of connections that a listener holds.

    Args:
        connections: number of connections of all peers together.
        strangers: how many of them may belong to peers that have not proven who they are on them.
            The same number of places is always left for such peers.
    """

    connections: int
    strangers: int


class OpenConnections(Generic[C]):
    """Every connection is accepted. An unauthenticated one may be closed to make room for another.

    When strangers are too many, the oldest connection of the peer that holds most of them ends: a
    peer that opens many loses its own, and one that opens a few keeps them.
    """

    def __init__(self, room: ConnectionLimits) -> None:
        self._room = room
        self._peers: dict[C, str] = {}
        self._strangers: dict[str, dict[C, None]] = {}
        self._stranger_count = 0

    def __len__(self) -> int:
        return len(self._peers)

    def __contains__(self, connection: object) -> bool:
        return connection in self._peers

    @property
    def strangers(self) -> int:
        """The number of connections whose peers have proven nothing."""
        return self._stranger_count

    def __iter__(self) -> Iterator[C]:
        return iter(tuple(self._peers))

    def peer(self, connection: C) -> str:
        return self._peers[connection]

    def add(self, connection: C, peer: str) -> C | None:
        """Count a new connection. Returns the one that has to end, which is still counted, or
        None."""
        self._peers[connection] = peer
        self._strangers.setdefault(peer, {})[connection] = None
        self._stranger_count += 1
        if self._stranger_count <= self._room.strangers:
            return None
        most = max(self._strangers.values(), key=len)
        return next(iter(most))

    def admit(self, connection: C) -> bool:
        """Note that a connection's peer has proven who it is, so that it keeps its place. Returns
        False if all those places are taken: it is then served as a stranger's."""
        peer = self._peers.get(connection)
        if peer is None or connection not in self._strangers.get(peer, ()):
            return peer is not None
        if len(self._peers) - self._stranger_count >= self._room.connections - self._room.strangers:
            return False
        self._forget_stranger(connection, peer)
        return True

    def is_admitted(self, connection: C) -> bool:
        peer = self._peers.get(connection)
        return peer is not None and connection not in self._strangers.get(peer, ())

    def remove(self, connection: C) -> None:
        """Forget a closed connection; one that is not counted changes nothing."""
        peer = self._peers.pop(connection, None)
        if peer is not None and connection in self._strangers.get(peer, ()):
            self._forget_stranger(connection, peer)

    def _forget_stranger(self, connection: C, peer: str) -> None:
        held = self._strangers[peer]
        del held[connection]
        self._stranger_count -= 1
        if not held:
            del self._strangers[peer]
