"""Sockets on which the supervisor listens for its children, so that the sockets outlive each
child."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Sequence

from mlplatform.operations.supervisor.spec import ChildSpec
from mlplatform.runtime.errors import Busy
from mlplatform.runtime.http.server import BACKLOG

log = logging.getLogger(__name__)


class Listeners:
    """One listening loopback socket for each fixed port of children.

    A connection waits in the kernel's queue until any child takes it. A child that is killed loses
    the connections that it has accepted, but none that still wait. The same ports of `::1` are kept
    without listening: a browser asks for `localhost` there first, and would show somebody else's
    sign-in as this platform's.

    Raises:
        Busy: a port is taken; the message names it, and the setting that changes it.
    """

    def __init__(self, specs: Sequence[ChildSpec]) -> None:
        self._sockets: dict[int, socket.socket] = {}
        self._kept: list[socket.socket] = []
        try:
            for spec in specs:
                if spec.shared_port is not None and spec.shared_port not in self._sockets:
                    self._sockets[spec.shared_port] = _listen(spec, spec.shared_port)
                    self._kept += _keep_from_others(spec, spec.shared_port)
            for port, spec in {s.kept_port: s for s in specs if s.kept_port is not None}.items():
                self._kept.append(_keep(spec, port))
        except BaseException:
            self.close()
            raise

    def of(self, spec: ChildSpec) -> socket.socket | None:
        """The socket that this child inherits; None if it has no fixed port."""
        return None if spec.shared_port is None else self._sockets[spec.shared_port]

    def close(self) -> None:
        """Close the sockets; connections are refused once the last child has closed its own."""
        for sock in (*self._sockets.values(), *self._kept):
            sock.close()


def _listen(spec: ChildSpec, port: int) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
    except OSError as error:
        raise port_in_use(spec, port, error) from None


def reserve_port(port: int = 0) -> socket.socket:
    """Reserve a port of 127.0.0.1 (0: any free one) against other users while the socket is open;
    this user's processes can listen on it with SO_REUSEPORT.

    Another process that listens where one of ours did a moment ago would receive what was meant for
    ours: tokens, keys and requests. This socket itself does not listen, so connections are refused
    while no process listens.
    Source: socket(7), SO_REUSEPORT: sockets of one effective user alone.

    Raises:
        OSError: another user has the port.
    """
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", port))
    except OSError:
        held.close()
        raise
    return held


def _keep(spec: ChildSpec, port: int) -> socket.socket:
    try:
        return reserve_port(port)
    except OSError as error:
        raise port_in_use(spec, port, error, setting=spec.kept_port_setting) from None


def _keep_from_others(spec: ChildSpec, port: int) -> list[socket.socket]:
    """A socket bound to the port of `::1`; empty if it can't be bound."""
    try:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    except OSError:
        return []
    try:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(("::1", port))  # without SO_REUSEADDR: nobody binds it beside this
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            log.warning(
                "another program listens at [::1]:%d, beside %s: call 127.0.0.1 instead"
                " of localhost",
                *(port, spec.name),
            )
        return []
    return [sock]


def port_in_use(spec: ChildSpec, port: int, error: OSError, setting: str | None = None) -> Busy:
    """The error for a port that can't be used."""
    setting = setting or spec.port_setting
    hint = "" if setting is None else f"; set {setting} to another"
    who = "`mlplatform doctor` says who holds it, and which is free"
    why = os.strerror(error.errno) if error.errno else str(error)
    return Busy(f"port {port} of {spec.name} can't be used ({why}){hint}; {who}")


def ports_in_use(taken: Sequence[tuple[int, str | None]]) -> Busy:
    """The error for several ports that can't be used, each with the setting that changes it."""
    ports = ", ".join(f"{port} ({setting})" if setting else str(port) for port, setting in taken)
    return Busy(
        f"these ports can't be used: {ports}; `mlplatform doctor` says who holds them, and ends"
        " in the command that starts the platform on free ones"
    )
