"""/metrics with a token and /healthz without, of a process that serves nothing else."""

from __future__ import annotations

import asyncio
import hmac
import os
import socket
import threading
from pathlib import Path
from typing import Final

import msgspec

from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.runtime.http.connection import Answer, Limits
from mlplatform.runtime.http.ended_connections import EndedConnections
from mlplatform.runtime.http.messages import Refusal, Reply, Request, line
from mlplatform.runtime.http.server import BACKLOG, Server
from mlplatform.runtime.storage.files import write_atomically
from mlplatform.runtime.telemetry.prometheus import Registry

LIMITS: Final = Limits(connections=256, strangers=64, body_bytes=1024)
_TEXT: Final = (line(b"content-type", b"text/plain; version=0.0.4; charset=utf-8"),)


def listen(
    registry: Registry,
    token: str,
    *,
    port: int = 0,
    host: str = "127.0.0.1",
    ended: EndedConnections | None = None,
) -> int:
    """Serve from now on, in a thread of its own; returns the port.

    Args:
        port: 0: any that is free.
        ended: counts connections that were ended for what they did.

    Raises:
        ConfigInvalid: the token is empty.
    """
    if not token:
        raise ConfigInvalid("the token of /metrics", "an empty file", "a secret")
    sock = socket.create_server((host, port), backlog=BACKLOG)
    server = Server(_Metrics(registry, token), [sock], limits=LIMITS, ended=ended)

    def serve() -> None:
        # The process's end cuts this thread short. A timer of uvloop's that is due then calls into
        # an interpreter that is gone, and the process dies of it; the standard library's does not.
        asyncio.run(server.serve())

    threading.Thread(target=serve, name="metrics", daemon=True).start()
    taken: int = sock.getsockname()[1]
    return taken


def read_token(path: Path) -> str:
    """The token that a file holds.

    Raises:
        ConfigInvalid: the file can't be read.
    """
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ConfigInvalid("--token-file", str(path), f"a file ({error.strerror})") from error


def tell(address_file: Path, port: int) -> None:
    """Say in a file where this process listens."""
    address = {"port": port, "pid": os.getpid()}
    write_atomically(address_file, msgspec.json.encode(address))


class _Metrics:
    """An application that shows a registry."""

    def __init__(self, registry: Registry, token: str) -> None:
        self._registry = registry
        self._authorization = f"Bearer {token}".encode()

    def answer(self, request: Request) -> Answer:
        if request.path == "/healthz":
            return Reply(b"ok", _TEXT)
        if request.path != "/metrics":
            return Reply(b"", _TEXT, 404)
        given = request.headers.get(b"authorization", b"")
        if not hmac.compare_digest(given, self._authorization):
            return Reply(b"", _TEXT, 401)
        request.let_in()
        if request.method not in ("GET", "HEAD"):
            return Reply(b"", (*_TEXT, line(b"allow", b"GET, HEAD")), 405)
        return self._shown()

    def refusal(self, refused: Refusal) -> Reply:
        return Reply(str(refused).encode(), _TEXT, refused.status)

    def ended(self, reason: str) -> None:
        """Does nothing: only the caller is informed."""

    async def _shown(self) -> Reply:
        # What is shown is read from databases, and others need not wait for that.
        return Reply(await asyncio.to_thread(self._registry.text), _TEXT)
