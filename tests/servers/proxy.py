"""A TCP proxy in front of a server that can cut it off, or leave it hanging, in the middle."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from typing import Self

PIECE = 65_536


class Proxy:
    """Forwards a port of loopback to a server on another until told otherwise.

    Args:
        tls: what this side shows; the server behind gets plain text.
        host: the address of this side, where it is not loopback's.
    """

    def __init__(
        self, target: int, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> None:
        self._target = target
        self._tls = tls
        self._forwards = threading.Event()
        self._forwards.set()
        self._refuses = False
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server((host, 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hang(self) -> None:
        """Keep every connection, take new ones, and forward nothing."""
        self._forwards.clear()

    def refuse(self) -> None:
        """Cut every connection; new ones are cut at once."""
        self._refuses = True
        self._cut()

    def forward(self) -> None:
        """Work again."""
        self._refuses = False
        self._forwards.set()

    def close(self) -> None:
        self._listener.close()
        self._refuses = True
        self._forwards.set()
        self._cut()

    def _cut(self) -> None:
        with self._lock:
            ends, self._open = self._open, set()
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._forwards.wait()
        if self._refuses:
            client.close()
            return
        try:
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
            server = socket.create_connection(("127.0.0.1", self._target), 5.0)
            server.settimeout(None)
        except OSError:
            client.close()
            return
        with self._lock:
            self._open |= {client, server}
        threading.Thread(target=self._copy, args=(server, client), daemon=True).start()
        self._copy(client, server)

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            while piece := source.recv(PIECE):
                self._forwards.wait()
                sink.sendall(piece)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
            with self._lock:
                self._open.discard(end)
